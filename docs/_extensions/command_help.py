"""The directive `command-help`: a section for each command of the program, with what its `--help` prints."""

import contextlib
import io
import os

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from policysearch.cli.main import COMMANDS, main
from policysearch.methods.settings import METHODS

WIDTH = 88


def printed(*arguments):
    """What the program prints."""
    before, text = os.environ.get("COLUMNS"), io.StringIO()
    os.environ["COLUMNS"] = str(WIDTH)
    try:
        with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
            main(list(arguments))
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before
    if not text.getvalue().strip():
        raise ValueError(f"policysearch {' '.join(arguments)} prints nothing")
    return text.getvalue()


class CommandHelp(SphinxDirective):
    """All commands, then the flags that each method adds to `train`."""

    def run(self):
        """One section a command, one a method."""
        found = []
        for name, (_, summary) in COMMANDS.items():
            section = self._section(f"command-{name}", name, summary[0].upper() + summary[1:] + ".")
            section += self._listing(printed(name, "--help"))
            found.append(section)
        methods = self._section("method-flags", "Flags of each method", "What --method NAME adds to train.")
        for name in METHODS:
            text = printed("train", "--method", name, "--help")
            section = self._section(f"method-{name}", name, "")
            section += self._listing(text[text.index(f"\nmethod {name}:") + 1 :])
            methods += section
        return [*found, methods]

    def _section(self, identifier, title, summary):
        section = nodes.section(ids=[identifier], names=[identifier])
        section += nodes.title(title, title)
        if summary:
            section += nodes.paragraph(summary, summary)
        self.state.document.note_explicit_target(section)
        return section

    def _listing(self, text):
        return nodes.literal_block(text, text.rstrip(), language="text")


def setup(app):
    """Register the directive."""
    app.add_directive("command-help", CommandHelp)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
