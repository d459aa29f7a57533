"""`python -m curl_rl` is `curl-rl`."""

import sys

from curl_rl.cli import main

if __name__ == "__main__":
    sys.exit(main())
