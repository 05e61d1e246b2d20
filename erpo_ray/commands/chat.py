"""`erpo chat`: a policy on the terminal, trace and answer apart."""

from __future__ import annotations

import sys
from pathlib import Path

from erpo_ray import traces
from erpo_ray.commands.common import model_of
from erpo_ray.terminal import clean


def chat(model: str, prompt: str | None, max_tokens: int) -> int:
    """Answer one message, or read messages until the input ends."""
    folder = model_of(model)
    if prompt is not None:
        _turn(folder, [], prompt, max_tokens)
        return 0
    print("An empty line, Ctrl-D or Ctrl-C ends the talk.", file=sys.stderr)
    history: list[str] = []
    while text := _ask():
        history = _turn(folder, history, text, max_tokens)
    return 0


def shown(completion: str, colour: bool) -> str:
    """A completion for the terminal: the trace first, set apart, then the answer; none of it can steer the terminal."""
    reasoning, answer = traces.split(clean(completion))
    dim, plain = ("\x1b[2m", "\x1b[0m") if colour else ("", "")
    thought = "".join(f"{dim}  | {line}{plain}\n" for line in (reasoning or "").strip().splitlines())
    return thought + ((answer or "").strip() or f"(no answer{': the trace did not end' if answer is None else ''})")


def _turn(folder: Path, history: list[str], text: str, max_tokens: int) -> list[str]:
    """The talk so far with this turn added; of the policy's completion only the answer goes back to it."""
    from erpo_ray.engines.chat import generate

    texts = [*history, text]
    completion = generate(folder, texts, max_tokens)
    print(shown(completion, sys.stdout.isatty()), flush=True)
    return [*texts, traces.answer(completion)]


def _ask() -> str:
    try:
        return input("> ").strip()
    except (EOFError, KeyboardInterrupt):
        return ""
