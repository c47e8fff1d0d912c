"""Makes the input of this task: `python3 generate.py [FOLDER]` writes environment/data and tests/data below FOLDER.

The files are committed; running this is not needed to run the task.
"""

import json
import random
import shutil
import sys
from pathlib import Path

RNG = random.Random(4711)
NAMES = ["alloy", "arbor", "basalt", "brine", "cedar", "Cinder", "delta", "dune", "ember", "fathom", "fjord", "gable", "gravel", "harbor", "heath", "iris",
         "juniper", "kelp", "lagoon", "lichen", "marl", "moss", "nickel", "oak", "opal", "pebble", "quartz", "reed", "rust", "sable", "shale", "slate",
         "tarn", "tide", "umber", "vale", "willow", "Zinc"]


def packages():
    result = {name: {} for name in NAMES}
    ranks = list(NAMES)
    RNG.shuffle(ranks)
    for index, name in enumerate(ranks):
        if index > 3:
            result[name]["requires"] = RNG.sample(ranks[max(0, index - 12):index], RNG.choice([0, 1, 1, 2, 3]))
        if index > 8 and RNG.random() < 0.3:
            result[name]["after"] = RNG.sample(ranks, 2)
    add = lambda name, key, *values: result.setdefault(name, {}).setdefault(key, []).extend(values)  # noqa: E731
    # A circle of three, one of two, a package that needs the first circle, and one that is only *after* it.
    add("rotor", "requires", "stator", "oak")
    add("stator", "requires", "winding")
    add("winding", "requires", "rotor")
    add("yoke", "requires", "zipper")
    add("zipper", "requires", "yoke", "moss")
    add("motor", "requires", "rotor")
    add("vehicle", "requires", "motor", "tide")
    add("garage", "after", "vehicle", "rotor")
    add("garage", "requires", "slate")
    # A circle that only an optional edge closes, and one made of two optional edges.
    add("lexer", "requires", "parser-tables")
    add("parser-tables", "after", "lexer")
    add("docs", "after", "examples")
    add("examples", "after", "docs")
    # Two circles of requires joined by optional edges in both directions stay two circles.
    add("rotor", "after", "zipper")
    add("zipper", "after", "winding")
    # Virtual names.
    for name, priority in (("tls-one", None), ("tls-two", 5), ("tls-alt", 5), ("tls-win", 9)):
        result[name] = {"provides": ["tls"], "requires": ["basalt"]}
        if priority is not None:
            result[name]["priority"] = priority
    result["tls-win"]["platforms"] = ["windows"]
    result["tls-alt"]["requires"] = ["tls"]
    add("fetcher", "requires", "tls")
    add("mirror", "requires", "fetcher", "blob-store")
    result["blob-mac"] = {"provides": ["blob-store"], "platforms": ["macos", "windows"]}
    result["zlib"] = {}
    result["zlib-fast"] = {"provides": ["zlib"], "priority": 99}
    add("packer", "requires", "zlib", "packer")
    result["only-bsd"] = {"platforms": ["freebsd"]}
    add("ports", "requires", "only-bsd")
    add("portal", "requires", "ports")
    add("console", "after", "only-bsd", "portal", "zlib-fast")
    keys = list(result)
    RNG.shuffle(keys)
    return {key: result[key] for key in keys}


def main(root):
    data = root / "environment" / "data"
    data.mkdir(parents=True, exist_ok=True)
    body = ",\n".join(f"  {json.dumps(name)}: {json.dumps(entry)}" for name, entry in packages().items())
    (data / "packages.json").write_text("{\n" + body + "\n}\n", encoding="utf-8")
    (data / "targets.txt").write_text(
        "# nightly\nvehicle\ngarage\nlexer\n\ndocs   # both of them\nexamples\nmirror\nfetcher\npacker\nportal\nconsole\nonly-bsd\nyoke\n"
        "juniper\nreed\nCinder\nZinc\nquartz\n  willow\nkelp\nharbor\n#shale\nlagoon\n", encoding="utf-8")
    shutil.rmtree(root / "tests" / "data", ignore_errors=True)
    shutil.copytree(data, root / "tests" / "data")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
