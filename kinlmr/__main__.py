"""``python -m kinlmr``: the command `kinlmr`."""

import sys

import kinlmr

sys.exit(kinlmr.video.main())
