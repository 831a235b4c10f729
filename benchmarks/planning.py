"""Planning of a WebVid-like list: CPU seconds and peak memory for an empty bank and for an update of 1%."""

from __future__ import annotations

from pathlib import Path

import numpy as np

_WORDS = """
aerial view of the beach at sunset with waves and palm trees young woman walking her dog in a park slow motion
city traffic time lapse close up hands typing on laptop businessman talking phone mountain river forest autumn
leaves falling camera moves forward abstract background particles blue red green loop animation 4k footage happy
family having dinner together children playing football drone flying over green fields clouds sky
""".split()  # noqa: SIM905


def write_list(path: Path, rows: int, edited: float = 0.0, seed: int = 0) -> None:
    """Writes a csv in WebVid's layout with varied captions, one in eight of them quoted.

    Args:
        path: file to write.
        rows: how many.
        edited: share of rows whose caption differs from the list with ``edited=0``; as many rows are new.
        seed: of the captions.
    """
    step = 50_000
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write("videoid,name,page_idx,page_dir,duration,contentUrl\n")
        for start in range(0, rows, step):
            generator = np.random.default_rng([seed, start])
            count = min(step, rows - start)
            words = np.array(_WORDS)[generator.integers(0, len(_WORDS), (count, 14))].tolist()
            lengths = generator.integers(6, 15, count).tolist()
            changed = (np.random.default_rng([seed + 1, start]).random(count) < edited).tolist()
            file.writelines(map(_line, range(start, start + count), words, lengths, changed))


def _line(i: int, words: list[str], length: int, edited: bool) -> str:
    caption = " ".join(words[:length])
    if i % 8 == 0:
        caption = f'"{caption}, {words[0]} ""{words[1]}""."'
    if edited and i % 2:
        caption = f"edited {caption}"
    number = 1_000_000_000 + i if edited and not i % 2 else 10_000 + i * 7
    page = f"{number % 1000000:06d}_{number % 1000000 + 50:06d}"
    url = f"https://ak.picdn.net/shutterstock/videos/{number}/preview/stock-footage-{'-'.join(words[:6])}.mp4"
    return f"{number},{caption},{i % 600},{page},PT00H00M{5 + i % 50:02d}S,{url}\n"
