import sys

from engine.cli.main import main
from engine.logs import escape_unencodable
from engine.process.confinement import forbid_inspection

forbid_inspection()
escape_unencodable()
sys.exit(main())
