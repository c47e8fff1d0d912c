"""Makes the sample files and the strategies importable in this folder and below."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
