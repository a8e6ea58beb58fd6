"""The exceptions a caller may see. Everything else that escapes is a bug."""


class InputError(ValueError):
    """The caller's input is unusable: one line naming the argument, the value and what is accepted.

    The command line prints the line and exits with code 2. Raised before any weight loads.
    """

    def __init__(self, argument: str, value: object, accepted: str) -> None:
        self.argument = argument
        self.value = value
        self.accepted = accepted
        shown = value if isinstance(value, str) else repr(value)
        line = " ".join(f"{argument}: {shown}: {accepted}".split())
        super().__init__(line)

    def __reduce__(self) -> tuple[type["InputError"], tuple[str, object, str]]:
        """Errors cross from worker processes, which would otherwise make them anew from their line alone."""
        return type(self), (self.argument, self.value, self.accepted)


class MissingDependency(InputError):
    """An optional package is needed for what was asked; the line says how to install it."""


class Stopped(Exception):
    """The user stopped the work; what is done so far is on disk and `--resume` continues it."""
