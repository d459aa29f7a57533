"""One thread a test process: many small networks on many threads spend their time waiting for each other."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, here and in the processes that tests start
