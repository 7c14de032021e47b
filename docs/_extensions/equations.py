"""Mathematics as MathML, made at build time: pages need neither JavaScript nor a network.

The font, STIX Two Math, lies in the package ziamath; what the pages can need of it becomes a web font.
"""

import itertools
import re
from html import escape
from pathlib import Path

import ziamath
from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from fontTools import subset
from sphinx.errors import ExtensionError
from sphinx.transforms.post_transforms import SphinxPostTransform

#: ASCII, Greek, general punctuation, super- and subscripts, letterlike, arrows, operators, brackets, alphanumerics
RANGES = (
    (0x20, 0xFF),
    (0x300, 0x36F),
    (0x370, 0x3FF),
    (0x2000, 0x22FF),
    (0x2308, 0x230B),
    (0x27E6, 0x27EF),
    (0x2A00, 0x2A7E),
    (0x1D400, 0x1D7FF),
)
TAG = re.compile(r"\\tag\{([^}]*)\}")


def _mathml(text, node, block):
    # an operator's name needs its space before a letter
    text = re.sub(r"\\log (?=[a-z\\])", r"\\log\\,", text)
    try:
        found = tex2mathml(text, as_block=block)
    except MathError as error:
        raise ExtensionError(f"{node.source}:{node.line}: {error} in {text!r}") from error
    # bars of a norm come in pairs and are as tall as text
    forms = itertools.cycle(("prefix", "postfix"))
    return re.sub("<mo>‖</mo>", lambda _: f'<mo form="{next(forms)}" stretchy="false">‖</mo>', found)


class Tie(SphinxPostTransform):
    """Keeps the punctuation that follows an inline formula on its line; browsers would break between the two."""

    default_priority = 900

    def run(self, **kwargs):
        """Move it from the text to the formula."""
        for node in list(self.document.findall(nodes.math)):
            after = node.next_node(descend=False, siblings=True)
            mark = re.match(r"[,.;:)’]+", after.astext()) if isinstance(after, nodes.Text) else None
            if mark:
                node["tail"] = mark[0]
                after.parent.replace(after, nodes.Text(after.astext()[mark.end() :]))


def _inline(self, node):
    formula = _mathml(node.astext(), node, False)
    self.body.append(f'<span class="tie">{formula}{node["tail"]}</span>' if "tail" in node else formula)
    raise nodes.SkipNode


def _block(self, node):
    """An equation on a line of its own, with the number of its `\\tag` at the right."""
    text = node.astext()
    tag = TAG.search(text)
    number = f'<span class="equation-number">({escape(tag[1])})</span>' if tag else ""
    anchor = f' id="equation-{escape(tag[1]).replace(".", "-")}"' if tag else ""
    self.body.append(f'<div class="equation"{anchor}>{_mathml(TAG.sub("", text).strip(), node, True)}{number}</div>\n')
    raise nodes.SkipNode


def _font(app):
    if app.builder.format != "html":
        return
    target = Path(app.outdir) / "_static" / "STIXTwoMath.woff"
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    options = subset.Options(flavor="woff", layout_features=["*"], notdef_outline=True)
    font = subset.load_font(str(Path(ziamath.__file__).parent / "fonts" / "STIXTwoMath-Regular.ttf"), options)
    chosen = subset.Subsetter(options)
    chosen.populate(unicodes=[code for low, high in RANGES for code in range(low, high + 1)])
    chosen.subset(font)
    subset.save_font(font, str(target), options)


def setup(app):
    """Register the renderer that `html_math_renderer` names."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    app.add_post_transform(Tie)
    app.connect("builder-inited", _font)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
