"""Trains on a CSV log, converts the model, and scores raw values with the native file.

python examples/train_on_my_log.py [FOLDER]

The log is written here, so that the script runs as it is; put your own in its place and describe
its columns (docs/data.md).
"""

import csv
import random
import subprocess
import sys
from pathlib import Path

import ondevice

COLUMNS = """
label = "clicked"
ignore = ["note"]
[fields]
user = "string"
film = "string"
hour = "integer"
"""


def write_log(path: Path, rows: int = 6000) -> None:
    """A log in which films with even numbers are liked more, and some users like more."""
    rng = random.Random(0)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["user", "film", "hour", "note", "clicked"])
        for _ in range(rows):
            user, film = rng.randrange(300), rng.randrange(60)
            likes = 0.1 + 0.5 * (film % 2 == 0) + 0.3 * (user % 3 == 0)
            row = [f"user-{user}", f"film-{film}", rng.randrange(24), "x"]
            writer.writerow([*row, int(rng.random() < likes)])


def main(folder: Path) -> None:
    """Train, convert, rank three films for a user by their names."""
    folder.mkdir(parents=True, exist_ok=True)
    write_log(folder / "clicks.csv")
    (folder / "columns.toml").write_text(COLUMNS, encoding="utf-8")
    command = [sys.executable, "-m", "ondevice"]
    data = ["--data", "csv", "--path", "clicks.csv", "--columns", "columns.toml"]
    train = [*command, "train", *data, "--batch", "128", "--epochs", "8", "--out", "checkpoint"]
    subprocess.run(train, cwd=folder, check=True)
    convert = [*command, "convert", "checkpoint", "--tables", "q8", "--out", "models"]
    subprocess.run(convert, cwd=folder, check=True)

    model = ondevice.load(folder / "models" / "model.odm")
    films = ["film-7", "film-8", "a film that is not in the log"]
    scores = model.rank({"user": ["user-4"], "hour": [20]}, {"film": films}, raw=True)
    for film, score in zip(films, scores, strict=True):
        print(f"{film}: {score:.3f}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "my-log"))
