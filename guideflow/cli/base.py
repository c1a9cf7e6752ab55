"""What all commands are declared on, and how their help looks in 80 columns."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

Body = TypeVar("Body", bound=Callable[..., Any])

PANELS: Final[Mapping[str, tuple[str, ...]]] = {
    "Make pictures": ("demo", "run", "app"),
    "Make many, and judge them": ("sweep", "tune", "evaluate", "report"),
    "Look up what there is": ("list", "info", "doctor"),
    "Look at what was made": ("inspect", "verify"),
    "Your own": ("init-plugin", "completion"),
}
"""The commands in the order in which `guideflow --help` shows them."""


class Command(TyperCommand):
    """A command whose help spends no column on what is known of a flag, and cuts no word."""

    panels: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Under which heading an option is shown, by its name in Python."""

    def get_params(self, ctx: Any) -> Any:
        """Return the parameters as the help shall show them."""
        found: list[Any] = [*super().get_params(ctx)]
        headings = {name: heading for heading, names in self.panels.items() for name in names}
        for one in found:
            plain(one)
            if self.panels and one.param_type_name == "option":
                one.rich_help_panel = headings.get(str(one.name), "And more")
        return found


class Group(TyperGroup):
    """All commands, under headings."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names in the order of `PANELS`."""
        for heading, names in PANELS.items():
            for name in names:
                if name in self.commands:
                    self.commands[name].rich_help_panel = heading  # type: ignore[attr-defined]
        order = [name for names in PANELS.values() for name in names]
        return sorted(self.commands, key=lambda name: order.index(name) if name in order else len(order))

    def get_params(self, ctx: Any) -> Any:
        """Return the parameters as the help shall show them."""
        found = super().get_params(ctx)
        for one in found:
            plain(one)
        return found


def plain(parameter: Any) -> None:
    """Take the type of a flag out of the help, and the brackets in brackets of a default that is told in words."""
    if getattr(parameter, "is_flag", False) and parameter.metavar is None:
        parameter.metavar = ""
    told = getattr(parameter, "show_default", None)
    if isinstance(told, str):
        parameter.help, parameter.show_default = f"{parameter.help} (default: {told})", False


class Commands(typer.Typer):
    """Declares a `Command` where nothing else is asked for."""

    def command(  # type: ignore[override]
        self, name: str | None = None, *, cls: type[TyperCommand] = Command, **options: Any
    ) -> Callable[[Body], Body]:
        """Return the decorator that declares a command."""
        return super().command(name, cls=cls, **options)


app = Commands(name="guideflow", cls=Group, add_completion=False, pretty_exceptions_enable=False)
