"""Small data sets in the layouts in which people have them: the published columns, and videos where they are kept.

Every one has two good clips and, where its list can say so, a row without a caption.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

CAPTIONS = ("a dog runs on the beach", "a chef cuts onions", " ")
_KEYS = ("aaaaaaaaaaa", "bbbbbbbbbbb", "ccccccccccc")
_RANGE = ("00:00:00.000", "00:00:05.000")


def _write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def _rows(**columns: Callable[[int], Any]) -> list[dict[str, Any]]:
    return [{name: of(i) for name, of in columns.items()} for i in range(len(CAPTIONS))]


def _copy(videos: Path, *names: Path) -> None:
    for i, name in enumerate(names):
        name.parent.mkdir(parents=True, exist_ok=True)
        name.write_bytes((videos / f"v{i:02}.mp4").read_bytes())


def write_webvid(folder: Path, videos: Path) -> None:
    """The csv of WebVid with a copy of the videos in its pages."""
    rows = _rows(
        videoid=lambda i: 1000 + i, contentUrl=lambda i: f"https://example.org/{i}.mp4",
        duration=lambda _: "PT00H00M05S", page_dir=lambda _: "000001_000050", name=CAPTIONS.__getitem__,
    )  # fmt: skip
    _write_csv(folder / "results_10M_train.csv", rows)
    _copy(videos, *(folder / "videos" / row["page_dir"] / f"{row['videoid']}.mp4" for row in rows))


def write_internvid(folder: Path, videos: Path) -> None:
    """The jsonl of InternVid with the clips cut out."""
    rows = _rows(
        YoutubeID=_KEYS.__getitem__, Start_timestamp=lambda _: "00:00:05.320", End_timestamp=lambda _: "00:00:10.000",
        Caption=CAPTIONS.__getitem__, Aesthetic_Score=lambda _: 4.2, UMT_Score=lambda _: 0.41,
    )  # fmt: skip
    (folder / "InternVid-10M-flt.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    names = ("_".join([row["YoutubeID"], row["Start_timestamp"], row["End_timestamp"]]) for row in rows)
    _copy(videos, *(folder / "clips" / f"{name}.mp4" for name in names))


def write_openvid(folder: Path, videos: Path) -> None:
    """The csv of OpenVid-1M beside its unpacked videos."""
    rows = [
        {"video": f"{key}_0_0to8.mp4", "caption": caption, "aesthetic score": 5.2, "motion score": 3.1}
        | {"temporal consistency score": 0.99, "camera motion": "static", "frame": 8, "fps": 8.0, "seconds": 1.0}
        for key, caption in zip(_KEYS, CAPTIONS, strict=True)
    ]
    _write_csv(folder / "OpenVid-1M.csv", rows)
    _copy(videos, *(folder / "video" / row["video"] for row in rows))


def write_panda(folder: Path, videos: Path) -> None:
    """The csv of Panda-70M, a row a video, with its lists as Python spells them; the videos downloaded."""
    _write_csv(
        folder / "panda70m_training_2m.csv",
        [
            {
                "videoID": _KEYS[0],
                "url": f"https://www.youtube.com/watch?v={_KEYS[0]}",
                "timestamp": [
                    ["0:00:00.000", "0:00:05.000"],
                    ["0:00:00.000", "0:00:04.000"],
                    ["0:00:00.000", "0:00:03"],
                ],
                "caption": [*CAPTIONS],
                "matching_score": [0.5, 0.46, 0.4],
            }
        ],
    )
    _copy(videos, folder / "videos" / f"{_KEYS[0]}.mp4")


def write_koala(folder: Path, videos: Path) -> None:
    """The csv of Koala-36M, a row a clip, one range each; the videos downloaded."""
    rows = _rows(
        videoID=_KEYS.__getitem__, url=lambda i: f"https://www.youtube.com/watch?v={_KEYS[i]}",
        timestamp=lambda _: ["0:00:00.000", "0:00:05.000"], caption=CAPTIONS.__getitem__,
        clarity_test_score=lambda _: 0.9, aesthetic_score=lambda _: 4.5, motion_score=lambda _: 6.0, VTSS=lambda _: 3.1,
    )  # fmt: skip
    _write_csv(folder / "Koala_36M_1.csv", rows)
    _copy(videos, *(folder / "videos" / f"{key}.mp4" for key in _KEYS))


def write_miradata(folder: Path, videos: Path) -> None:
    """The csv of MiraData with its clips."""
    rows = _rows(
        index=lambda i: f"00000000{i}_0-0", video_id=_KEYS.__getitem__, start_frame=lambda _: 0,
        end_frame=lambda _: 900, main_object_caption=lambda _: "an object", background_caption=lambda _: "a place",
        style_caption=lambda _: "plain", camera_caption=lambda _: "still", short_caption=CAPTIONS.__getitem__,
        dense_caption=lambda i: CAPTIONS[i] and CAPTIONS[i] * 2, fps=lambda _: 30.0,
    )  # fmt: skip
    _write_csv(folder / "miradata_v0.csv", rows)
    _copy(videos, *(folder / "clip_video" / "000000000" / f"{row['index']}.mp4" for row in rows))


def write_vidgen(folder: Path, videos: Path) -> None:
    """The array of VidGen-1M with its unpacked videos."""
    rows = _rows(vid=lambda i: f"{_KEYS[i]}-Scene-0013", caption=CAPTIONS.__getitem__)
    (folder / "VidGen_1M_video_caption.json").write_text(json.dumps(rows))
    _copy(videos, *(folder / "VIDGEN-1M_unzip" / f"{row['vid']}.mp4" for row in rows))


def write_vatex(folder: Path, videos: Path) -> None:
    """The array of VATEX, ten captions a clip in the original, with its clips."""
    rows = [
        {"videoID": f"{key}_000001_000011", "enCap": [caption, f"{caption} again"], "chCap": ["狗"]}
        for key, caption in zip(_KEYS, CAPTIONS[:2], strict=False)
    ]
    (folder / "vatex_training_v1.0.json").write_text(json.dumps([*rows, {**rows[1], "videoID": "x", "enCap": []}]))
    _copy(videos, *(folder / "clips" / f"{row['videoID']}.mp4" for row in rows))


def write_msrvtt(folder: Path, videos: Path) -> None:
    """The document of MSR-VTT, videos and sentences, with its clips."""
    listed = [
        {"category": 9, "url": "https://example.org", "video_id": f"video{i}", "start time": 137.72, "end time": 149.44}
        | {"split": "train", "id": i}
        for i in range(3)
    ]
    sentences = [(0, CAPTIONS[0]), (1, CAPTIONS[1]), (0, "a pet on the sand"), (2, " ")]
    document = {
        "info": {"contributor": "MSRA", "version": "1.0"},
        "videos": listed,
        "sentences": [{"caption": text, "video_id": f"video{i}", "sen_id": n} for n, (i, text) in enumerate(sentences)],
    }
    (folder / "train_val_videodatainfo.json").write_text(json.dumps(document))
    _copy(videos, *(folder / "TrainValVideo" / f"video{i}.mp4" for i in range(3)))


def write_videofolder(folder: Path, videos: Path) -> None:
    """A Hugging Face videofolder."""
    rows = _rows(file_name=lambda i: f"train/{i}.mp4", text=CAPTIONS.__getitem__)
    _write_csv(folder / "metadata.csv", rows)
    _copy(videos, *(folder / row["file_name"] for row in rows))


def write_video_column(folder: Path, videos: Path) -> None:
    """A Hugging Face data set with the videos in it, in two files."""
    type = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    (folder / "data").mkdir()
    for i in range(3):
        video = [{"bytes": (videos / f"v{i:02}.mp4").read_bytes(), "path": f"{i}.mp4"}]
        table = pa.table({"video": pa.array(video, type), "caption": [CAPTIONS[i]]})
        pq.write_table(table, folder / "data" / f"train-{i:05}-of-00003.parquet")


def write_folder(folder: Path, videos: Path) -> None:
    """Videos with their captions beside them."""
    _copy(videos, *(folder / f"{i}.mp4" for i in range(3)))
    (folder / "0.txt").write_text(CAPTIONS[0])
    (folder / "1.json").write_text(json.dumps({"caption": CAPTIONS[1]}))


LAYOUTS = {
    "WebVid": write_webvid,
    "InternVid": write_internvid,
    "OpenVid": write_openvid,
    "Panda-70M": write_panda,
    "Koala-36M": write_koala,
    "MiraData": write_miradata,
    "VidGen": write_vidgen,
    "VATEX": write_vatex,
    "MSR-VTT": write_msrvtt,
    "a Hugging Face videofolder": write_videofolder,
    "a Hugging Face Video column": write_video_column,
    "a folder": write_folder,
}
