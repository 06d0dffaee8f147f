"""The commands ``segue respond`` and ``segue judge``."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segue.judge import paper
from segue.runs.records import load_records, write_atomically

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from segue.judge.pairwise import Judgement, JudgeSettings, Pair
    from segue.judge.responses import Responses
    from segue.judge.summary import Summary

__all__ = ["judge", "respond"]

_Key = tuple[Path, Path]
"""A candidate's file and its reference's."""


def respond(
    out: Path,
    /,
    *,
    model: str | None = None,
    revision: str | None = None,
    runs: Path = Path("runs"),
    run: tuple[str, ...] = (),
    paper_reference: str | None = None,
    prompts: Path | None = None,
    num_prompts: int = 100,
    data: str | None = None,
    max_new_tokens: int = 512,
    batch_size: int = 8,
    device: str = "cpu",
) -> None:
    """Write what fine-tuned models answer to held-out prompts; what is there is not written again.

    Args:
        out: Folder for the answers, a JSONL file for each model.
        model: A model in Transformers' format, of the hub or a folder, instead of runs.
        revision: Of the model.
        runs: Folder of `segue run language`, with the weights of the presets judged or paper.
        run: Ids of runs, or their beginnings; all that kept their weights if none is named.
        paper_reference: Answer with the paper's reference of this target alone: anthropic_hh or
            tulu_v1.
        prompts: JSONL file with a prompt in every line; else the target's held-out prompts.
        num_prompts: How many of the held-out prompts.
        data: Data folder (else the environment variable SEGUE_DATA), or hub.
        max_new_tokens: Most tokens of an answer.
        batch_size: Prompts that are answered at once.
        device: Where to answer, such as cuda.
    """
    from segue.experiments.language.answering import held_out_prompts, load_run, name_of_run
    from segue.judge.generation import Responder, load_responder, write_responses
    from segue.judge.responses import read_prompts

    console = _console()

    def write(name: str, responder: Responder, texts: list[str]) -> None:
        path = out / f"{name}.jsonl"
        with _progress(console, name) as tell:
            found = write_responses(
                responder,
                texts,
                path,
                max_new_tokens=max_new_tokens,
                batch_size=batch_size,
                on_progress=tell,
            )
        finished = sum(response.finished for response in found.by_prompt.values())
        _say(console, f"{path}: {len(texts)} answers, {finished} of them ended by themselves")

    texts = None if prompts is None else read_prompts(prompts)
    if model is not None:
        if texts is None:
            raise ValueError("prompts must name a file where the model is not of a run")
        if run or paper_reference is not None:
            raise ValueError("model must be alone: pass no run and no paper_reference with it")
        name = "--".join(part for part in (*Path(model).parts[-2:], revision) if part)
        write(name.strip("/."), load_responder(model, revision=revision, device=device), texts)
        return
    root = data or os.environ.get("SEGUE_DATA")
    for record in _chosen_runs(runs, run, paper_reference):
        responder = load_run(record, runs, root, device=device)
        own = texts or held_out_prompts(record, responder, root, num_prompts=num_prompts)
        write(name_of_run(record), responder, own)


def judge(
    responses: tuple[Path, ...],
    /,
    *,
    reference: Path | None = None,
    base_url: str = "http://localhost:8000/v1",
    model: str = paper.MODEL,
    cache: Path = Path("runs/judge/answers.jsonl"),
    out: Path = Path("judged.json"),
    template: Path | None = None,
    temperature: float = paper.TEMPERATURE,
    max_judge_tokens: int = paper.MAX_JUDGE_TOKENS,
    max_response_characters: int = paper.MAX_RESPONSE_CHARACTERS,
    num_parallel: int = 8,
    timeout_seconds: float = 120.0,
    max_retries: int = 5,
) -> None:
    """Let a language model compare answers with a reference's, in both orders.

    Args:
        responses: Files that `segue respond` wrote, of the candidates; the reference may be there.
        reference: File of the reference; else the paper's rule chooses it among the responses, for
            each target (revision step447000-tokens1874B, hard switch, learning rate 1e-5, seed 0).
        base_url: An OpenAI-compatible server. A key is read from OPENAI_API_KEY.
        model: The judge, as the server calls it.
        cache: JSONL file with every answer of the judge: the same question is never asked twice.
        out: JSON file for settings, summaries and every judgement.
        template: Text file with another question, with {prompt}, {first} and {second}.
        temperature: Of the judge.
        max_judge_tokens: Most tokens of the judge's answer.
        max_response_characters: Answers are cut to this length before they are judged.
        num_parallel: Questions asked at the same time.
        timeout_seconds: Longest wait for an answer.
        max_retries: How often a question is asked again after a failure of the server.
    """
    from segue.judge.cache import AnswerCache
    from segue.judge.client import JudgeServer
    from segue.judge.pairwise import JudgeSettings, ask, judge_pair
    from segue.judge.summary import summarize
    from segue.judge.template import DEFAULT_TEMPLATE, read_template

    settings = JudgeSettings(
        model=model,
        temperature=temperature,
        max_tokens=max_judge_tokens,
        max_response_characters=max_response_characters,
        template=DEFAULT_TEMPLATE if template is None else read_template(template),
    )
    server = JudgeServer(base_url, timeout_seconds=timeout_seconds, max_retries=max_retries)
    console = _console()
    paired = _pair_files(responses, reference)
    questions = [
        question
        for pairs in paired.values()
        for pair in pairs
        if not pair.is_identical
        for question in pair.questions(settings)
    ]
    with _progress(console, "judging") as tell:
        answers = ask(
            server,
            questions,
            settings,
            AnswerCache(cache),
            num_parallel=num_parallel,
            on_progress=tell,
        )
    judged = {
        key: [judge_pair(pair, settings, answers) for pair in pairs]
        for key, pairs in paired.items()
    }
    summaries = {
        key: summarize(pairs, judged[key], max_response_characters=max_response_characters)
        for key, pairs in paired.items()
    }
    _show(console, summaries, settings)
    _say(
        console,
        f"{answers.num_calls} calls of the judge, {answers.num_cached} answers from {cache}",
    )
    if answers.refused:
        reason = next(iter(answers.refused.values()))
        _say(console, f"the server refused {len(answers.refused)} questions, the first: {reason}")
    _write(out, settings, paired, judged, summaries)
    _say(console, f"wrote {out}")


def _chosen_runs(runs: Path, wanted: tuple[str, ...], paper_reference: str | None) -> list[Any]:
    """Records of the runs that are to answer."""
    from segue.experiments.language.answering import kept_runs, name_of_run

    records = load_records(runs)
    if paper_reference is not None:
        if wanted:
            raise ValueError("run must not be named together with paper_reference")
        return [paper.reference_record(records, paper_reference)]
    kept = kept_runs(records)
    if not kept:
        raise ValueError(
            f"found no run with kept weights in {runs}: segue run language --preset judged makes some"
        )
    unknown = [w for w in wanted if not any(r.run_id.startswith(w) for r in kept)]
    if unknown:
        names = "\n  ".join(f"{r.run_id}  {name_of_run(r)}" for r in kept[:20])
        raise ValueError(
            f"found no run {', '.join(unknown)} with kept weights in {runs}; there are "
            f"{len(kept)}:\n  {names}"
        )
    return [r for r in kept if not wanted or any(r.run_id.startswith(w) for w in wanted)]


def _pair_files(files: tuple[Path, ...], reference: Path | None) -> dict[_Key, list[Pair]]:
    """Pairs by candidate and reference, the references themselves left out."""
    from segue.judge.pairwise import make_pairs
    from segue.judge.responses import read_responses

    if not files:
        raise ValueError("responses must name at least one file, got none")
    read = {path: read_responses(path) for path in dict.fromkeys(files)}
    if reference is not None:
        references = dict.fromkeys(read, reference)
        read.setdefault(reference, read_responses(reference))
    else:
        references = _paper_references(read)
    chosen = {path.resolve() for path in references.values()}
    keys = [key for key in references.items() if key[0].resolve() not in chosen]
    if not keys:
        raise ValueError("responses must name a candidate, got the reference alone")
    pairs = {}
    for candidate, other in keys:
        try:
            pairs[candidate, other] = make_pairs(read[candidate], read[other])
        except ValueError as error:
            raise ValueError(f"{candidate} against {other}: {error}") from None
    return pairs


def _paper_references(read: Mapping[Path, Responses]) -> dict[Path, Path]:
    """The reference of each file by the paper's rule."""
    configs = {str(p): r.description.get("config") or {} for p, r in read.items()}
    targets = {each.target or "an unknown target" for each in read.values()}
    by_target = {t: Path(paper.choose_reference(configs, t)) for t in sorted(targets)}
    return {path: by_target[each.target or ""] for path, each in read.items()}


def _show(console: Console, summaries: Mapping[_Key, Summary], settings: JudgeSettings) -> None:
    from segue.judge.summary import summary_table

    for reference in dict.fromkeys(key[1] for key in summaries):
        own = {key[0].stem: s for key, s in summaries.items() if key[1] == reference}
        console.print(summary_table(own, reference=reference.stem, judge=settings.model))


def _write(
    out: Path,
    settings: JudgeSettings,
    paired: Mapping[_Key, list[Pair]],
    judged: Mapping[_Key, list[Judgement]],
    summaries: Mapping[_Key, Summary],
) -> None:
    content = {
        "format": 1,
        "judge": {
            **dataclasses.asdict(settings),
            "template": settings.template.text,
            "template_version": settings.template.version,
        },
        "candidates": [
            {
                "candidate": key[0].name,
                "reference": key[1].name,
                "summary": summaries[key].to_dict(),
                "judgements": [dataclasses.asdict(each) for each in judged[key]],
            }
            for key in paired
        ],
    }
    text = json.dumps(content, allow_nan=False, indent=1, ensure_ascii=True)
    write_atomically(out, text.encode("ascii"))


def _console() -> Console:
    from rich.console import Console

    return Console()


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _progress(console: Console, what: str) -> Iterator[Callable[[int, int], None]]:
    from rich.progress import Progress

    with Progress(console=console, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
