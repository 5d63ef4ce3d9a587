"""What the sub folders of a folder of photos are: classes, or splits that hold class folders.

Splits hold the same sub folders as each other. Which is which their names say, in any of several
languages (train, seg_train, training_set, 학습); what they leave open is an error that shows the tree.
"""

import itertools
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from flowerkit.data import SPLITS
from flowerkit.photos.walk import normalize_name
from flowerkit.text import join_some

SPLIT_WORDS = {
    "train": "train training trainings trn trainval learning entrenamiento entraînement entrainement "
    "treino treinamento addestramento trening обучение 학습 훈련 트레이닝 訓練 学習 训练",
    "val": "val vali valid validate validating validation dev validierung validación validacion "
    "validação validacao convalida валидация 검증 検証 验证 驗證",
    "test": "test tests testing tst pred predict prediction inference holdout unlabeled unlabelled "
    "prueba pruebas teste prova тест 시험 테스트 テスト 测试 測試",
    # "test" beside a folder for validation, "val" where there is none
    "eval": "eval evaluate evaluation évaluation evaluación avaliação 평가 評価 评估",
}
_SPLIT_OF = {word: split for split, words in SPLIT_WORDS.items() for word in words.split()}
# Beside these words they say nothing of a class: training_set, test_images, 학습데이터.
_FILLERS = (
    "sets?|datasets?|data|images?|imgs?|photos?|pictures?|samples?|jpe?g|png|files?|folder|split|dir|"
    "daten|bilder|datos|imágenes|données|dados|imagens|dati|immagini|"
    "용|데이터|셋|세트|이미지|사진|用|集|セット|データ|画像|数据|图片"
)
_WORDS = "|".join(sorted(map(re.escape, _SPLIT_OF), key=len, reverse=True))
_NAMED = re.compile(f"(?:{_FILLERS})*({_WORDS})(?:{_FILLERS})*")
_FILLER = re.compile(f"(?:{_FILLERS})+")
_SHOWN = 6


class Part(NamedTuple):
    """A folder that is a split; its sub folders are classes, unless all of it is `class_name`."""

    split: str | None
    class_name: str | None = None


@dataclass
class _Folder:
    """How many photos are right in a folder, and its sub folders that hold photos."""

    photos: int = 0
    folders: dict[str, "_Folder"] = field(default_factory=dict)


def find_split(name: str) -> tuple[str | None, bool]:
    """The split that a folder's name says ("eval" is val or test), and if it says nothing beside it.

    >>> [find_split(name) for name in ("TrainingSet", "seg_test", "학습데이터", "test1", "rose")]
    [('train', True), ('test', False), ('train', True), ('test', True), (None, False)]
    """
    words = _find_words(name)
    found = {_SPLIT_OF[match[1]] for word in words if (match := _NAMED.fullmatch(word))}
    if len(found) != 1:
        return None, False
    return found.pop(), all(_NAMED.fullmatch(word) or _FILLER.fullmatch(word) for word in words)


def _find_words(name: str) -> list[str]:
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", normalize_name(name))
    return re.findall(r"[^\W\d_]+", name.casefold())


def find_parts(folder: Path, paths: Iterable[str]) -> dict[str, Part]:
    """The parts of `folder`, by their paths in it: {"": Part(None)} if its sub folders are classes.

    Raises ValueError where the tree can be read in two ways, or where the photos to train on are in no
    class folders.
    """
    tops = _build(paths).folders
    several = (top.folders for top in tops.values() if len(top.folders) > 1)
    known = {normalize_name(name) for names in several for name in names}
    starts = {name: _descend(name, top, known) for name, top in tops.items()}
    classes = {name: set(map(normalize_name, start.folders)) for name, (_, start) in starts.items()}
    splits = _read_names(classes)
    if not splits:
        if parts := _find_inner_splits(tops):
            return parts
        # Some folder, but not the only one, holds splits.
        is_mixed = len(tops) > 1 and any(_name_splits(top.folders) for top in tops.values())
        if is_mixed or _find_twins(tops, classes):
            raise ValueError(_describe(folder, classes, {}))
        return {"": Part(None)}
    trained = set().union(*(classes[name] for name, split in splits.items() if split == "train"))
    if "train" in splits.values() and not trained:
        raise ValueError(_describe_flat(folder, classes, splits))
    given = list(splits.values())
    others = classes.keys() - splits.keys()
    mixed = others and (
        len(set(given)) < 2
        or len(trained) < 2
        or others & trained
        or any(classes[name] & trained for name in others)
    )
    if not trained or mixed or given.count("train") > 1 or given.count("val") > 1:
        raise ValueError(_describe(folder, classes, splits))
    return {starts[name][0]: Part(split) for name, split in splits.items()}


def find_named_splits(paths: Iterable[str]) -> dict[str, Part]:
    """The top folders as splits if their names say nothing else, train among them; or {}."""
    root = _build(paths)
    return {} if root.photos else {k: Part(v) for k, v in _name_splits(root.folders).items()}


def find_start(path: str, paths: Iterable[str]) -> str:
    """Where in the folder `path`, which is one split, the class folders begin: in it, or deeper."""
    node = _build(paths)
    for name in filter(None, path.split("/")):
        node = node.folders.get(name, _Folder())
    return _descend(path, node, set())[0]


def _build(paths: Iterable[str]) -> _Folder:
    root = _Folder()
    for path in paths:
        *folders, _ = path.split("/")
        node = root
        for name in folders:
            node = node.folders.setdefault(name, _Folder())
        node.photos += 1
    return root


def _descend(path: str, node: _Folder, known: set[str]) -> tuple[str, _Folder]:
    """Past folders that hold one folder only, as in seg_train/seg_train/ROSE, but no class."""
    split = find_split(path.split("/")[-1])[0]
    while not node.photos and len(node.folders) == 1:
        ((name, inner),) = node.folders.items()
        again = split and find_split(name)[0] == split
        if normalize_name(name) in known or not (again or (inner.folders and not inner.photos)):
            break
        path, node = f"{path}/{name}" if path else name, inner
    return path, node


def _read_names(classes: Mapping[str, set[str]]) -> dict[str, str]:
    """The split of each top folder that is named so; {} where none is, or where these are classes."""
    said = {name: find_split(name) for name in classes}
    splits = {name: split for name, (split, _) in said.items() if split}
    if not any(said[name][1] for name in splits) and len(set(splits.values())) < 2:
        return {}  # bullet_train and steam_train
    if len(splits) == 1:
        ((name, split),) = splits.items()
        others = [_find_words(other) or [other] for other in classes if other != name]
        if not others and split != "train":
            return {}  # a folder that was not meant
        is_beside = not all(_FILLER.fullmatch(word) for words in others for word in words)
        if is_beside and name.lower() == "train" and len(classes[name]) < 2:
            return {}  # train and bus
    for name, split in splits.items():
        if split == "eval":
            splits[name] = "test" if "val" in splits.values() else "val"
    return splits


def _name_splits(names: Iterable[str]) -> dict[str, str]:
    """The split of each folder if all names say one and nothing else, train among them; or {}."""
    splits = _read_names({name: set() for name in names})
    is_clear = len(set(splits.values())) > 1 and "train" in splits.values()
    return splits if is_clear and all(find_split(name)[1] for name in names) else {}


def _find_inner_splits(tops: Mapping[str, _Folder]) -> dict[str, Part]:
    """The parts where each class holds its own splits, as in rose/train/1.jpg; or {}."""
    inner = [(top, name) for top, node in tops.items() for name in node.folders]
    splits = _name_splits({name for _, name in inner})
    is_flat = all(not tops[top].folders[name].folders for top, name in inner)
    if len(tops) < 2 or not is_flat or any(top.photos for top in tops.values()):
        return {}
    return {f"{top}/{name}": Part(splits[name], top) for top, name in inner} if splits else {}


def _find_twins(tops: Mapping[str, _Folder], classes: Mapping[str, set[str]]) -> bool:
    """Whether two folders hold the same sub folders.

    Two or more of them and half of the fewer; or all of the fewer, if neither holds photos beside them.
    """
    counts = Counter(itertools.chain.from_iterable(classes.values()))
    shared = {name for name, count in counts.items() if count > 1}
    likely = Counter(
        (frozenset(names), tops[top].photos > 0) for top, names in classes.items() if names & shared
    )
    if any(count > 1 and len(names) > 1 for (names, _), count in likely.items()):
        return True
    for (first, photos), (second, more) in itertools.combinations(likely, 2):
        same, (fewer, most) = len(first & second), sorted((len(first), len(second)))
        if (same > 1 and 2 * same >= fewer) or (most > 1 and same == fewer and not photos | more):
            return True
    return False


# Errors -------------------------------------------------------------------------------------------


def _describe(folder: Path, classes: Mapping[str, set[str]], splits: Mapping[str, str]) -> str:
    question = "which are splits, and which are classes?"
    if splits and "train" not in splits.values():
        question = "no split to train on is among them."
    order = sorted(splits, key=lambda name: SPLITS.index(splits[name]))
    options = [f"--{splits[name]} {shlex.quote(str(folder / name))}" for name in order]
    options += [f"--{split} DIR" for split in SPLITS if split not in splits.values()]
    return (
        f"{folder} holds {_show(classes)}: {question} Name the folders that are splits, "
        f"{' '.join(options)} (train=, val=, test=), or all of them as classes: --train "
        f"{shlex.quote(str(folder))}."
    )


def _describe_flat(folder: Path, classes: Mapping[str, set[str]], splits: Mapping[str, str]) -> str:
    names = join_some([f"{normalize_name(name)}/" for name in splits], _SHOWN)
    return (
        f"{folder} holds {_show(classes)}: {names} are splits by name, but the photos to train on are "
        "in no class folders. Pass a csv of file names and labels (labels_csv=, --labels), a pattern of "
        "the names (label_pattern=, --label-pattern), or name all "
        f"of them as classes: --train {shlex.quote(str(folder))} (train=)."
    )


def _show(classes: Mapping[str, set[str]]) -> str:
    """The top of the tree in a line."""
    shown = []
    for name, inner in classes.items():
        names = join_some([f"{each}/" for each in sorted(inner)], 4)
        shown.append(f"{normalize_name(name)}/ ({names or 'no folders'})")
    return join_some(shown, _SHOWN)
