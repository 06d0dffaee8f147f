import sys
from pathlib import Path

# Worker processes inherit the path and find the tiny family by name.
sys.path.insert(0, str(Path(__file__).parent))
