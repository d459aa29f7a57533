"""Many runs: plans of jobs, their schedule, and the engines that run them."""
