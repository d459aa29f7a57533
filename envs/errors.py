"""What an environment raises for its user."""

from curl_rl import Error


class EnvError(Error, RuntimeError):
    """An environment that cannot be made, or not be played on; the message says all and names the mend."""
