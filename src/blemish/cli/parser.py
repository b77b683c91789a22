"""Command lines parsed into dataclasses: a field is an option, and its docstring is the option's help."""

from __future__ import annotations

import re
from dataclasses import fields, make_dataclass, replace
from difflib import get_close_matches
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from cyclopts import (
    UNSET,
    App,
    ArgumentCollection,
    CoercionError,
    CycloptsError,
    Group,
    MissingArgumentError,
    Parameter,
    UnknownOptionError,
    UnusedCliTokensError,
)

from blemish.cli.help import HelpWriter
from blemish.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cyclopts import Argument

    from blemish.methods.config import DetectorConfig

Options = TypeVar("Options")
Config = TypeVar("Config", bound="DetectorConfig")

NOUNS = {int: "whole number", float: "number", bool: "yes or no", NoneType: "None"}


def parse(command: str, kind: type[Options], arguments: Sequence[str]) -> Options:
    """Parse a command's options; `--help` prints and ends. Raises UsageError, in one line, for a mistake."""
    return kind(**_given(command, kind, arguments))


def parse_with_config(
    command: str, kind: type[Options], config: Config, arguments: Sequence[str]
) -> tuple[Options, Config]:
    """Parse a command's options and those of a method, whose defaults are the values of `config`."""
    hints, group = get_type_hints(type(config)), Parameter(group=Group("options of the method", sort_key=1))
    defaults = [(f.name, Annotated[hints[f.name], group], getattr(config, f.name)) for f in fields(config)]
    both = make_dataclass(kind.__name__, defaults, bases=(kind, type(config)), kw_only=True, frozen=True)
    both.__doc__ = kind.__doc__
    given = _given(command, both, arguments)
    own = {name: given.pop(name) for name in vars(config) if name in given}
    return kind(**given), replace(config, **own)


def parse_known(command: str, kind: type[Options], arguments: Sequence[str]) -> tuple[Options, list[str]]:
    """Parse these options alone, and return them and all other arguments, as they were given."""
    app = _app(command, kind, help_flags=())
    try:
        _, bound, others, _ = app.parse_known_args(list(arguments))
    except CycloptsError as error:
        raise UsageError(f"{_in_a_line(error)}; see blemish {command} --help") from None
    return kind(**bound.arguments), others


def _given(command: str, kind: type, arguments: Sequence[str]) -> dict[str, Any]:
    """Return the values of the options that are given, by their fields."""
    app = _app(command, kind, help_flags=("--help", "-h"))
    try:
        found, bound, _ = app.parse_args(list(arguments))
    except CycloptsError as error:
        raise UsageError(f"{_in_a_line(error)}; see blemish {command} --help") from None
    if found is not kind:  # help was asked for
        found(*bound.args, **bound.kwargs)
        raise SystemExit(0)
    return bound.arguments


def _app(command: str, kind: type, *, help_flags: tuple[str, ...]) -> App:
    options = Group("options", sort_key=0)
    app = App(
        name=f"blemish {command}",
        help_flags=help_flags,
        version_flags=(),
        help_format="plaintext",
        help_formatter=HelpWriter(),
        group_commands=options,
        group_parameters=options,
        default_parameter=Parameter(
            allow_repeating=True,
            consume_multiple=True,
            negative_iterable=(),
            negative_none=(),
            show_default=_as_typed,
        ),
        config=_settle,
        print_error=False,
        exit_on_error=False,
    )
    app.default(kind)
    return app


def _as_typed(default: Any) -> str:
    return " ".join(map(str, default)) if isinstance(default, tuple) else str(default)


def _settle(_app: App, _commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Settle what was typed, before it is converted.

    Of an option that is given twice the last one counts; `None` is no text where it is a value; and a number
    with a point in it is not rounded to a whole one.
    """
    for argument in arguments:
        starts = [i for i, token in enumerate(argument.tokens) if token.keyword and token.index == 0]
        argument.tokens = argument.tokens[starts[-1] if starts else 0 :]
        types = _types(argument.hint)
        if len(argument.tokens) == 1 and argument.tokens[0].value == "None" and NoneType in types:
            argument.tokens = [argument.tokens[0].evolve(implicit_value=None)]
        elif int in types:
            for token in argument.tokens:
                if token.implicit_value is UNSET and not re.fullmatch(r"[+-]?\d+", token.value):
                    raise CoercionError(argument=argument, token=token, target_type=argument.hint)


def _types(hint: Any) -> set[Any]:
    """Return what a hint is made of: unions and tuples taken apart."""
    if get_origin(hint) is Literal or not get_args(hint):
        return {hint}
    return set().union(*map(_types, get_args(hint)))


# --- mistakes ---------------------------------------------------------------------------------------------


def _in_a_line(error: CycloptsError) -> str:
    """Say what is wrong: the option, the value, the rule."""
    option = _misspelt(error)
    if option is not None:
        known = error.app.assemble_argument_collection() if error.app else ()
        near = get_close_matches(
            option, [name for argument in known for name in argument.names], n=1, cutoff=0.7
        )
        return f"{option}: no such option" + (f", but there is {near[0]}" if near else "")
    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        return f"{error.unused_tokens[0]}: belongs to no option"
    if error.argument is None:
        error.verbose = False
        return " ".join(str(error).split())
    if isinstance(error, MissingArgumentError):
        wanted = "is required" if error.keyword is None else f"needs {_rule(error.argument.hint)}"
        return f"{error.keyword or _name(error.argument)}: {wanted}"
    token, hint = None, error.argument.hint
    if isinstance(error, CoercionError):
        token, hint = error.token, error.target_type or hint
    values = " ".join(t.value for t in ([token] if token else error.argument.tokens))
    return f"{_name(error.argument)} {values}: must be {_rule(hint)}"


def _misspelt(error: CycloptsError) -> str | None:
    """Return an option that does not exist, also where another one, required, is missing for its sake."""
    if isinstance(error, UnknownOptionError):
        return (error.token.keyword or error.token.value).split("=", 1)[0]
    if isinstance(error, MissingArgumentError) and error.keyword is None:
        options = [token for token in error.unused_tokens or () if token.startswith("--") and token != "--"]
        return options[0].split("=", 1)[0] if options else None
    return None


def _name(argument: Argument) -> str:
    """Name an option as it is typed, and a positional argument as the help has it."""
    return argument.name if argument.index is None else argument.parameter.metavar or argument.name


def _rule(hint: Any) -> str:
    """Say in words what a value must be."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Literal:
        return f"one of {', '.join(map(str, parts))}"
    if origin is tuple:
        many = [part for part in parts if part is not Ellipsis]
        noun = NOUNS.get(many[0], "value")
        return f"{noun}s" if Ellipsis in parts else f"{len(many)} {noun}s"
    if parts:  # a union
        rules = list(map(_rule, parts))
        return "a value" if "a value" in rules else " or ".join(rules)
    return NOUNS[hint] if hint in (bool, NoneType) else f"a {NOUNS.get(hint, 'value')}"
