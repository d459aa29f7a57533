"""`python -m curl_rl` is `curl-rl`."""

import sys

from curl_rl.run.interpreter import forget_current_folder

if __name__ == "__main__":
    forget_current_folder()  # before anything else is imported: no module there is ours
    from curl_rl.cli import main

    sys.exit(main())
