// The player: frames from a strip of pictures, and over them the path that the plan made there imagines.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("playback").textContent);
  const player = document.getElementById("player");
  const find = (selector) => player.querySelector(selector);
  const canvas = find("canvas"), goal = find(".goal img"), chart = find(".distance svg");
  const play = find(".play"), slider = find("input"), label = find("output"), buttons = find(".episodes");
  const hues = { agent: "#c8211b", puck: "#2f4fd0" };
  const millisecondsPerDecision = 330, rest = 1100;
  let current = 0, frame = 0, playing = false, timer = 0;

  for (const body of data.bodies) {
    const item = document.createElement("li");
    item.style.setProperty("--hue", hues[body] || "#444");
    item.textContent = `imagined path of the ${body}`;
    find(".bodies").append(item);
  }
  data.episodes.forEach((episode, index) => {
    episode.image = new Image();
    episode.image.onload = draw;
    episode.image.src = episode.frames;
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = `episode ${episode.number}`;
    button.className = episode.reached ? "reached" : "missed";
    button.onclick = () => { show(index, 0); start(); };
    buttons.append(button);
  });

  function show(index, at) {
    current = index;
    const episode = data.episodes[index];
    goal.src = episode.goal;
    slider.max = episode.distance.length - 1;
    [...buttons.children].forEach((button, i) => button.setAttribute("aria-pressed", i === index));
    seek(at);
  }

  function seek(at) {
    const episode = data.episodes[current];
    frame = Math.min(at, episode.distance.length - 1);
    slider.value = frame;
    const last = episode.distance.length - 1;
    const ending = episode.reached ? "goal reached" : "out of decisions";
    label.textContent = frame === last ? `${ending} after ${last}` : `decision ${frame + 1} of ${last}`;
    draw();
  }

  function draw() {
    const episode = data.episodes[current];
    const edge = Math.round(canvas.clientWidth * (window.devicePixelRatio || 1));
    if (!edge || !episode.image.complete) return;
    if (canvas.width !== edge) canvas.width = canvas.height = edge;
    const pen = canvas.getContext("2d"), size = data.size, scale = edge / size;
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.imageSmoothingEnabled = false;
    pen.drawImage(episode.image, 0, frame * size, size, size, 0, 0, edge, edge);
    pen.globalAlpha = 0.2;
    if (goal.complete) pen.drawImage(goal, 0, 0, edge, edge);
    pen.globalAlpha = 1;
    // Pixels' centres are at integers.
    pen.setTransform(scale, 0, 0, scale, scale / 2, scale / 2);
    const paths = episode.paths[frame];
    if (paths) paths.forEach((points, body) => path(pen, points, episode.arrivals[frame], hues[data.bodies[body]] || "#444"));
    distances(episode);
  }

  // Up to its closest point to the goal a plan is drawn in full: what comes after is not part of its cost.
  function path(pen, points, arrival, hue) {
    pen.lineJoin = pen.lineCap = "round";
    pen.strokeStyle = hue;
    stroke(pen, points.slice(arrival), 0.35, 0.28);
    pen.strokeStyle = "#ffffff";
    stroke(pen, points.slice(0, arrival + 1), 1.5, 0.75);
    pen.strokeStyle = hue;
    stroke(pen, points.slice(0, arrival + 1), 0.7, 0.95);
    pen.fillStyle = hue;
    points.slice(1, arrival).forEach(([x, y]) => { pen.beginPath(); pen.arc(x, y, 0.62, 0, 7); pen.fill(); });
    const [x, y] = points[arrival];
    pen.beginPath();
    pen.arc(x, y, 1.35, 0, 7);
    pen.fillStyle = "#ffffff";
    pen.fill();
    pen.lineWidth = 0.7;
    pen.stroke();
  }

  function stroke(pen, points, width, alpha) {
    if (points.length < 2) return;
    pen.globalAlpha = alpha;
    pen.lineWidth = width;
    pen.beginPath();
    points.forEach(([x, y], i) => (i ? pen.lineTo(x, y) : pen.moveTo(x, y)));
    pen.stroke();
    pen.globalAlpha = 1;
  }

  function distances(episode) {
    const top = Math.max(...episode.distance), last = Math.max(data.budget, episode.distance.length - 1);
    const x = (i) => 4 + (i / last) * 250, y = (d) => 88 - (d / top) * 80;
    const line = episode.distance.map((d, i) => `${i ? "L" : "M"}${x(i).toFixed(1)} ${y(d).toFixed(1)}`).join("");
    chart.innerHTML = `<line class="grid" x1="4" x2="254" y1="88" y2="88"/>` +
      `<path class="line first" d="${line}"/>` +
      `<circle class="dot first" cx="${x(frame)}" cy="${y(episode.distance[frame])}" r="4.5"/>` +
      `<text x="4" y="105">0</text><text class="end" x="254" y="105">${last} decisions</text>`;
  }

  function tick() {
    const last = data.episodes[current].distance.length - 1;
    if (frame < last) seek(frame + 1);
    else show((current + 1) % data.episodes.length, 0);
    const ended = frame === data.episodes[current].distance.length - 1;
    timer = setTimeout(tick, frame === 0 ? 2 * millisecondsPerDecision : ended ? rest : millisecondsPerDecision);
  }
  function start() {
    stop();
    playing = true;
    play.textContent = "Pause";
    timer = setTimeout(tick, millisecondsPerDecision);
  }
  function stop() {
    clearTimeout(timer);
    playing = false;
    play.textContent = "Play";
  }

  play.onclick = () => (playing ? stop() : start());
  slider.oninput = () => { stop(); seek(Number(slider.value)); };
  goal.onload = draw;
  new ResizeObserver(draw).observe(canvas);
  show(0, 0);

  // Starts by itself once in view, unless the reader prefers stillness.
  if (!matchMedia("(prefers-reduced-motion: reduce)").matches) {
    const seen = new IntersectionObserver((entries) => {
      if (entries.some((entry) => entry.isIntersecting)) { seen.disconnect(); start(); }
    }, { threshold: 0.4 });
    seen.observe(canvas);
  }
})();
