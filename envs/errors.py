"""What an environment raises for its user."""


class EnvError(RuntimeError):
    """An environment that cannot be made, or not be played on; the message says all and names the mend."""
