"""Data sets of TFDS, read without TensorFlow: their examples as sources, their frames however they are
stored.
"""

import io
import json
import shutil
import sys
import zlib

import numpy as np
import pytest
from listed import put
from PIL import Image

from ringvision.data.video import Limits, VideoError
from ringvision.data.video.decode import square
from ringvision.errors import UserError
from ringvision.tokenize import dataset
from ringvision.tokenize.inputs import content, pictures, read_inputs, stamp
from ringvision.tokenize.source import VideoSource


def features_of(**kept):
    import tensorflow_datasets as tfds

    return tfds.features.FeaturesDict(kept)


def write_dataset(folder, features, shards, split="train"):
    """ArrayRecord shards of examples and TFDS's own metadata of them, without TensorFlow."""
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordWriter

    folder.mkdir(parents=True, exist_ok=True)
    template = tfds.core.ShardedFileTemplate(
        data_dir=folder, dataset_name="drawn", split=split, filetype_suffix="array_record"
    )
    for number, shard in enumerate(shards):
        writer = ArrayRecordWriter(
            str(template.sharded_filepath(shard_index=number, num_shards=len(shards))), "group_size:1"
        )
        for example in shard:
            writer.write(features.serialize_example(example))
        writer.close()
    info = tfds.core.SplitInfo(
        name=split, shard_lengths=[len(shard) for shard in shards], num_bytes=0, filename_template=template
    )
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=features,
        split_infos=[info],
        filename_template=template,
        description="drawn",
        check_data=False,
    )
    return folder


def png(picture, **options):
    held = io.BytesIO()
    Image.fromarray(picture).save(held, options.pop("format", "PNG"), **options)
    return held.getvalue()


def edit(path, change):
    held = json.loads(path.read_text())
    change(held)
    path.write_text(json.dumps(held))


def frames_of(source, **options):
    batches = list(pictures(source, **({"fps": 2.0, "size": 8, "batch": 3, "limits": Limits()} | options)))
    return (
        np.concatenate([batch.frames for batch in batches]),
        np.concatenate([batch.times for batch in batches]),
        batches,
    )


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def videos(tmp_path, rng):
    """Tensors [T, 12, 16, 3] with captions in two shards and an empty one between; the clips."""
    import tensorflow_datasets as tfds

    features = features_of(
        video=tfds.features.Tensor(shape=(None, 12, 16, 3), dtype=np.uint8), caption=tfds.features.Text()
    )
    clips = [rng.integers(0, 256, (length, 12, 16, 3), np.uint8) for length in (4, 1, 3)]
    examples = [{"video": clip, "caption": f"clip {number}, größer"} for number, clip in enumerate(clips)]
    return write_dataset(tmp_path / "drawn", features, [examples[:2], [], examples[2:]]), clips


def test_an_example_is_a_source_and_its_frames_are_all_sampled(videos):
    import tensorflow_datasets as tfds

    folder, clips = videos
    found = read_inputs([f"tfds:{folder}/train"])
    whole = f"tfds:{folder}/train"
    assert found == [
        VideoSource(f"{whole}#{n}", dataset=whole, index=n, caption=f"clip {n}, größer") for n in range(3)
    ]
    theirs = tfds.builder_from_directory(str(folder)).as_data_source(split="train")
    for source, clip, example in zip(found, clips, theirs, strict=True):
        np.testing.assert_array_equal(clip, example["video"])
        frames, times, batches = frames_of(source)
        np.testing.assert_array_equal(frames, [square(picture, 8) for picture in clip])
        np.testing.assert_array_equal(times, np.arange(len(clip)) / 2)
        assert [len(batch.frames) for batch in batches] == [3] * (len(clip) // 3) + [len(clip) % 3] * (
            len(clip) % 3 > 0
        )
    assert "tensorflow" not in sys.modules


def test_a_data_set_is_named_by_folder_split_or_slice(videos, monkeypatch):
    folder, _ = videos
    monkeypatch.chdir(folder.parent)
    whole = read_inputs([f"tfds:{folder}/train"])
    assert (
        read_inputs([f"tfds:{folder}"])
        == read_inputs(["tfds:drawn"])
        == read_inputs([f"tfds:{folder}/train", "tfds:./drawn/train"])
        == whole
    )
    (last,) = read_inputs([f"tfds:{folder}/train[2:]"])
    assert last.caption == whole[2].caption and content(last) == content(whole[2])
    np.testing.assert_array_equal(frames_of(last)[0], frames_of(whole[2])[0])


def test_a_data_set_is_found_by_name_config_and_version_where_tfds_keeps_it(videos, tmp_path, monkeypatch):
    from tensorflow_datasets.core.utils import file_utils

    monkeypatch.setattr(file_utils, "list_data_dirs", lambda: [tmp_path / "kept"])
    for place in ("one/1.9.0", "one/1.10.0", "several/small/1.0.0", "several/large/1.0.0"):
        shutil.copytree(videos[0], tmp_path / "kept" / place)
    edit(tmp_path / "kept/one/1.9.0/dataset_info.json", lambda info: info["splits"][0].update(name="old"))
    for name in ("one", "one/train", "one:1.10.0/train", "several/small/train"):
        assert len(read_inputs([f"tfds:{name}"])) == 3
    for name, words in (
        ("one:1.9.0/train", "no such split .*give one of old"),
        ("several/train", "several configs; give tfds:several/CONFIG/SPLIT, with one of large, small"),
        ("one:3.0.0/train", "prepare it .tfds build one:3.0.0 --file_format=array_record"),
        ("two", "prepare it .tfds build two "),
        ("../one/train", "give tfds:NAME.*or give tfds:FOLDER/SPLIT"),
    ):
        with pytest.raises(UserError, match=words):
            read_inputs([f"tfds:{name}"])


def as_video(features):
    """What TFDS writes for features.Video, which it makes itself with TensorFlow alone; on the disk it is a
    sequence of pictures.
    """
    held = features["featuresDict"]["features"]["video"]
    dimensions = ["-1", *held["sequence"]["feature"]["image"]["shape"]["dimensions"]]
    held["pythonClassName"] = "tensorflow_datasets.core.features.video_feature.Video"
    del held["sequence"]
    held["video"] = {"shape": {"dimensions": dimensions}, "dtype": "uint8", "encodingFormat": "png"}


@pytest.mark.parametrize("video", [True, False], ids=["Video", "Sequence"])
def test_videos_of_encoded_pictures(tmp_path, rng, video):
    import tensorflow_datasets as tfds

    clips = [rng.integers(0, 256, (length, 10, 9, 3), np.uint8) for length in (5, 2)]
    features = features_of(
        video=tfds.features.Sequence(tfds.features.Image(shape=(10, 9, 3))),
        image=tfds.features.Image(shape=(10, 9, 3)),
        label=tfds.features.ClassLabel(names=["falling", "rolling ball"]),
    )
    examples = [
        {"video": [png(f) for f in clip], "image": png(clip[0]), "label": n} for n, clip in enumerate(clips)
    ]
    folder = write_dataset(tmp_path / "clips", features, [examples])
    if video:
        edit(folder / "features.json", as_video)
    found = read_inputs([f"tfds:{folder}"])
    assert [source.caption for source in found] == ["falling", "rolling ball"]
    for source, clip in zip(found, clips, strict=True):
        frames, times, _ = frames_of(source, fps=4.0, size=5)
        np.testing.assert_array_equal(frames, [square(picture, 5) for picture in clip])
        np.testing.assert_array_equal(times, np.arange(len(clip)) / 4)
    assert "tensorflow" not in sys.modules


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
def test_an_image_is_a_video_of_one_frame_whatever_its_colours(tmp_path, rng, mode):
    import tensorflow_datasets as tfds

    drawn = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).convert(mode)
    held = io.BytesIO()
    drawn.save(held, "PNG")
    channels = {"L": 1, "RGBA": 4}.get(mode, 3)
    features = features_of(
        image=tfds.features.Image(shape=(None, None, channels)),
        text=tfds.features.Sequence(tfds.features.Text()),
    )
    folder = write_dataset(
        tmp_path / "images", features, [[{"image": held.getvalue(), "text": ["one", "two", "one"]}]]
    )
    (source,) = read_inputs([f"tfds:{folder}/train"])
    assert source.caption == "one\ntwo"
    frames, times, _ = frames_of(source)
    np.testing.assert_array_equal(frames, np.asarray(drawn.convert("RGB"))[None])
    assert times.tolist() == [0.0]


def stored(folder, shape, encoding, frames):
    """One example with a tensor in one of TFDS's other layouts, which it serialises and does not read back
    itself.
    """
    import tensorflow_datasets as tfds

    features = features_of(frames=tfds.features.Tensor(shape=shape, dtype=np.uint8, encoding=encoding))
    return read_inputs([f"tfds:{write_dataset(folder, features, [[{'frames': frames}]])}"])[0]


@pytest.mark.parametrize(
    ("shape", "encoding", "held"),
    [
        ((None, 8, 8, 1), "none", (2, 8, 8, 1)),
        ((8, 8, 1), "none", (8, 8, 1)),
        ((None, 8, 3), "none", (8, 8, 3)),
        ((None, 8, 8, 3), "bytes", (2, 8, 8, 3)),
        ((None, 8, 8, 3), "zlib", (2, 8, 8, 3)),
        ((None, None, None, 3), "zlib", (2, 8, 8, 3)),
        ((None, None, 1), "bytes", (8, 8, 1)),
    ],
)
def test_tensors_however_they_are_stored(tmp_path, rng, shape, encoding, held):
    frames = rng.integers(0, 256, held, np.uint8)
    source = stored(tmp_path / "stored", shape, encoding, frames)
    wanted = (frames if len(held) == 4 else frames[None]).repeat(3 // held[-1], -1)
    np.testing.assert_array_equal(frames_of(source)[0], wanted)


def test_the_checksum_of_an_example_is_of_its_frames_shape_and_nothing_else(tmp_path, rng):
    import tensorflow_datasets as tfds

    frames = rng.integers(0, 256, (2, 8, 6, 3), np.uint8)
    other = frames.copy()
    other[1, 7, 5, 2] ^= 1
    sums = []
    for number, held in enumerate([frames, other, frames.reshape(2, 6, 8, 3)]):
        features = features_of(
            frames=tfds.features.Tensor(shape=(None, *held.shape[1:]), dtype=np.uint8),
            caption=tfds.features.Text(),
        )
        folder = write_dataset(
            tmp_path / str(number),
            features,
            [[{"frames": held, "caption": "a"}], [{"frames": held, "caption": "b"}]],
        )
        first, second = read_inputs([f"tfds:{folder}"])
        assert content(first)[0] == content(second)[0]
        (shard,) = folder.glob("*-00001-of-00002")
        assert content(second)[1:] == stamp(second) == (shard.stat().st_size, shard.stat().st_mtime_ns)
        sums.append(content(first)[0])
    assert len(set(sums)) == 3 and all(len(digest) == 64 for digest in sums)


def damage(features):
    features["featuresDict"]["features"]["video"] = {
        "pythonClassName": "canary_of_features.Loud",
        "tensor": {},
    }


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("features.json", damage, "no video or image of uint8 among its features .caption, video."),
        ("features.json", lambda held: held.clear(), "features.json is not TFDS's .'featuresDict'.*prepare"),
        (
            "features.json",
            lambda held: held.update(featuresDict={"features": {"video": 3}}),
            "features.json is not TFDS's",
        ),
        ("dataset_info.json", lambda held: held.update(splits=3), "dataset_info.json is not TFDS's"),
        (
            "dataset_info.json",
            lambda held: held.update(fileFormat="tfrecord"),
            "keeps its examples as tfrecord; .*--file_format=array_record",
        ),
        ("dataset_info.json", lambda held: held["splits"][0].update(shardLengths=["0"]), "holds no example"),
        (
            "dataset_info.json",
            lambda held: held["splits"][0].update(filepathTemplate="../{DATASET}-{SHARD_INDEX}"),
            "holds no example in",
        ),
        (
            "dataset_info.json",
            lambda held: held["splits"][0].update(name="test"),
            "no such split.*give one of test",
        ),
    ],
)
def test_a_data_set_that_is_not_as_it_should_be_is_refused_and_runs_nothing(
    videos, monkeypatch, file, change, words
):
    folder, _ = videos
    put(
        folder.parent / "canary_of_features.py",
        b"raise SystemExit('a module that features.json names was imported')",
    )
    monkeypatch.syspath_prepend(folder.parent)
    edit(folder / file, change)
    with pytest.raises(UserError, match=words) as refused:
        read_inputs([f"tfds:{folder}/train"])
    assert "\n" not in str(refused.value)


def test_examples_that_are_gone_or_damaged_fail_alone(videos):
    folder, _ = videos
    found = read_inputs([f"tfds:{folder}/train"])
    dataset.open_dataset.cache_clear()
    first, _, last = sorted(folder.glob("*.array_record*"))
    first.unlink()
    for action in (content, frames_of):
        with pytest.raises(VideoError) as failed:
            action(found[0])
        assert failed.value.kind == "missing"
    assert stamp(found[0]) == (None, None)
    assert len(frames_of(found[2])[0]) == 3

    dataset.open_dataset.cache_clear()
    last.write_bytes(last.read_bytes()[:100])
    with pytest.raises(VideoError) as failed:
        frames_of(found[2])
    assert failed.value.kind == "damaged"
    dataset.open_dataset.cache_clear()
    (folder / "features.json").unlink()
    with pytest.raises(VideoError) as failed:
        content(found[2])
    assert failed.value.kind == "missing" and stamp(found[2]) == (None, None)


def bomb(width, height):
    """A PNG of a few bytes that says it is width x height."""
    head = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\x00\x00\x00"
    rest = b"IDAT" + zlib.compress(b"")
    chunks = b"".join(
        (len(c) - 4).to_bytes(4, "big") + c + zlib.crc32(c).to_bytes(4, "big") for c in (head, rest, b"IEND")
    )
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.mark.parametrize(
    ("held", "kind"),
    [
        (bomb(9000, 10), "limit"),
        (bomb(60_000, 60_000), "limit"),
        (bomb(10, 10), "damaged"),
        (b"GIF8", "damaged"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "damaged"),
        (png(np.zeros((4, 4), np.uint16)), "not-video"),
        (None, "empty"),
    ],
)
def test_pictures_that_are_not_decoded(tmp_path, held, kind):
    import tensorflow_datasets as tfds

    features = features_of(video=tfds.features.Sequence(tfds.features.Image()))
    folder = write_dataset(tmp_path / "bad", features, [[{"video": [] if held is None else [held]}]])
    (source,) = read_inputs([f"tfds:{folder}"])
    with pytest.raises(VideoError) as failed:
        frames_of(source)
    assert failed.value.kind == kind and str(failed.value).startswith(source.name)


def test_examples_are_held_to_the_limits(tmp_path, videos):
    source = read_inputs([f"tfds:{videos[0]}"])[0]
    big = stored(tmp_path / "big", (None, None, None, 3), "zlib", np.zeros((2, 400, 400, 3), np.uint8))
    for one, limit in (
        (source, {"max_frames": 3}),
        (source, {"max_side": 15}),
        (big, {"max_pixels": 159_999}),
        (big, {"max_frames": 1}),
    ):
        with pytest.raises(VideoError) as failed:
            frames_of(one, limits=Limits(**limit))
        assert failed.value.kind == "limit"
    with pytest.raises(VideoError, match="its frames are damaged"):
        frames_of(big, limits=Limits(memory=100_000))
    for wrong in ({"fps": 0.0}, {"fps": float("nan")}, {"size": 0}, {"batch": 0}):
        with pytest.raises(UserError, match="at least 1"):
            frames_of(source, **wrong)
