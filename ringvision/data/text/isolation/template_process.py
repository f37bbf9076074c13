"""The process that renders chat templates: `python -m ringvision.data.text.isolation.template_process`,
started by chat_template.py.

In, on stdin: a line of JSON `{"source": template, "variables": {…}}`. Out, on stdout: a line `{"text": …}` or
`{"error": …}`. The template runs in Jinja's immutable sandbox, which forbids attributes that begin with an
underscore and any change of a value. The process itself is bounded before the first template is read
(line_process.py): memory, processor time for each request, and no file can be opened.
"""

import json
import time
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from ringvision.data.text.isolation.line_process import close_files, limit, serve

MEMORY = 512 << 20
MOST_CHARACTERS = 1 << 22
"""The longest text that a template may write."""
MOST_MESSAGE = 200
"""The longest message with which it may refuse."""

WARM_UP = (
    "{{ 'a\\n' | pprint | urlize ~ strftime_now('%c') }}",
    "{{ raise_exception('') }}",
    "{% if %}",
    "{{ ''.__class__ }}",
)
"""Templates that make Python load the modules and files that are read only when first needed."""


class Refused(jinja2.TemplateError):
    """Raised by a template that calls `raise_exception`."""


class Generation(jinja2.ext.Extension):
    """`{% generation %} … {% endgeneration %}` marks what a model is trained on. Here it gives what is
    inside.
    """

    tags = {"generation"}  # noqa: RUF012 (as the base class has it)

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def environment() -> jinja2.sandbox.ImmutableSandboxedEnvironment:
    """Jinja with the functions and settings that chat templates expect."""
    extensions = [jinja2.ext.loopcontrols, Generation]
    jinja = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=extensions
    )
    del jinja.globals["lipsum"]
    jinja.globals |= {"raise_exception": _raise, "strftime_now": _now}
    jinja.filters["tojson"] = _json
    return jinja


def render(jinja: jinja2.Environment, source: str, variables: dict[str, Any]) -> dict[str, str]:
    """-> {"text": …}, or {"error": …}, which continues a sentence that begins with "the chat template"."""
    try:
        pieces = []
        length = 0
        for piece in jinja.from_string(source).generate(variables):
            pieces.append(piece)
            length += len(piece)
            if length > MOST_CHARACTERS:
                return {"error": f"writes more than {MOST_CHARACTERS} characters"}
        text = "".join(pieces)
        text.encode()
        return {"text": text}
    except Refused as error:
        return {"error": f"refuses these messages ({_shown(error)})"}
    except jinja2.TemplateSyntaxError as error:
        return {"error": f"is no template (line {error.lineno}: {_shown(error)})"}
    except jinja2.sandbox.SecurityError as error:
        return {"error": f"does what it must not ({_shown(error)})"}
    except MemoryError:
        return {"error": f"needs more than {MEMORY >> 20} MB"}
    except Exception as error:
        return {"error": f"failed ({type(error).__name__}: {_shown(error)})"}


def main() -> None:
    jinja = environment()
    for source in WARM_UP:
        render(jinja, source, {})
    limit(MEMORY)
    close_files()
    serve(lambda request: render(jinja, request["source"], request["variables"]))


def _shown(error: Exception) -> str:
    """The message of an error, made one line that a terminal can show."""
    return "".join(letter if letter.isprintable() else " " for letter in str(error)[:MOST_MESSAGE])


def _raise(message: object = "") -> None:
    raise Refused(str(message)[:MOST_MESSAGE])


def _now(form: str) -> str:
    return time.strftime(form)


def _json(
    value: Any,
    indent: int | None = None,
    ensure_ascii: bool = False,
    sort_keys: bool = False,
    separators: Any = None,
) -> str:
    """Plain JSON. Jinja's own filter would write &lt; for <."""
    return json.dumps(
        value, indent=indent, ensure_ascii=ensure_ascii, sort_keys=sort_keys, separators=separators
    )


if __name__ == "__main__":
    main()
