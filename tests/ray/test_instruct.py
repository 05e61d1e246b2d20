"""A model directory with a system prompt in its template: every chat begins with it, as the search asked it."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny

from erpo_ray.engines.instruct import SYSTEM, instruct
from erpo_ray.engines.renderer import Renderer, SystemRenderer
from erpo_ray.train.weights import version

SAID = 'w5 "w6"\nw7 {{ w8 }} \\ w9'
SEPARATE = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}\n"
DROPS = "{% for m in messages if m['role'] != 'system' %}{{ m['role'] }} {{ m['content'] }} {% endfor %}\n"
REFUSES = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + SEPARATE


@pytest.mark.parametrize("template", [SEPARATE, DROPS, REFUSES], ids=["separate", "drops", "refuses"])
def test_the_directory_is_asked_as_the_renderer_asks(tmp_path: Path, template: str) -> None:
    model, out = tiny.policy(tmp_path / "model"), tmp_path / "out"
    (model / "chat_template.jinja").write_text(template)
    out.mkdir()
    instruct(model, SAID, out)
    asked = SystemRenderer(model, SAID)
    assert asked.separate == (template == SEPARATE)
    made = Renderer(out)
    for texts in (("w10 w11",), ("w10", "w11", "w12")):
        assert made.render(*texts) == asked.render(*texts) != Renderer(model).render(*texts)
    own = [{"role": "system", "content": "w20"}, {"role": "user", "content": "w21"}]
    if template == SEPARATE:
        assert "w5" not in made._tokenizer.apply_chat_template(own, tokenize=False)
    assert version(out) == version(model) and (out / SYSTEM).read_text() == SAID
    assert (model / "chat_template.jinja").read_text() == template


def test_without_a_system_prompt_the_template_stays(tmp_path: Path) -> None:
    model, out = tiny.policy(tmp_path / "model"), tmp_path / "out"
    instruct(model, "", out)
    assert Renderer(out).render("w10") == Renderer(model).render("w10")
