"""Whether a wheel holds the package, all of it, and nothing else: wheel.py WHEEL REPOSITORY."""

import subprocess
import sys
import zipfile


def faults(held: list[str], files: list[str]) -> list[str]:
    """What is wrong with a wheel that holds `held`, where `files` are those of the package."""
    names = [name for name in held if not name.split("/")[0].endswith(".dist-info")]
    wrong = [f"it holds {name}" for name in names if name not in files]
    return wrong + [f"it lacks {name}" for name in files if name not in names]


if __name__ == "__main__":
    wheel, repository = sys.argv[1:]
    listed = subprocess.run(
        ("git", "-C", repository, "ls-files", "kinopt"), capture_output=True, text=True, check=True
    )
    if wrong := faults(zipfile.ZipFile(wheel).namelist(), listed.stdout.split()):
        sys.exit(f"{wheel} is not the package:\n" + "\n".join(wrong))
    print("the wheel holds the package and nothing else")
