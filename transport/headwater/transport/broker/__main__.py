"""Law: what `spawn` starts: config on stdin, one line of JSON on stdout, gone when stdin ends."""

import sys

from headwater.transport.broker.process import main

sys.exit(main())
