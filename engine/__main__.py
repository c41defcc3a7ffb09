import sys

from engine.cli import main
from engine.sandbox import forbid_inspection

forbid_inspection()
sys.exit(main())
