"""From pixels to plans in minutes: collect, train, compile, evaluate, compare, report."""

from fastwm.demo.run import run_demo
from fastwm.demo.settings import DemoSettings, Search

__all__ = ["DemoSettings", "Search", "run_demo"]
