"""What a world model is good for, measured: does it use actions, how far does it see, does it rank plans rightly?"""

from fastwm.diagnose.measure import Diagnosis, diagnose
from fastwm.diagnose.page import write_page

__all__ = ["Diagnosis", "diagnose", "write_page"]
