"""Facts that hold for the Makefile and for the workflows that call it.

`tests/containers/run` runs this.
"""

import re
import subprocess
import sys
import unittest
from pathlib import Path

from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
MAKEFILE = (ROOT / "Makefile").read_text()
CALLERS = [ROOT / ".ci/run", *WORKFLOWS]


def targets():
    """The targets that `make help` lists."""
    return set(re.findall(r"^([a-z0-9-]+):.*## ", MAKEFILE, re.M))


def scripts():
    """The programs that a person or CI would start."""
    command = ["git", "ls-files", "scripts", "tests"]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in names.splitlines():
        if name.startswith("scripts/") or name.endswith(("/run", "/build", "/mutations")):
            yield name


class Makefile(unittest.TestCase):
    def test_every_target_is_listed(self):
        phony = set(" ".join(re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.M)).split())
        self.assertEqual(phony - targets(), {"server"})
        self.assertEqual(targets() - phony, set())

    def test_every_script_is_called(self):
        names = list(scripts())
        self.assertGreater(len(names), 10)
        for name in names:
            others = [MAKEFILE, *((ROOT / other).read_text() for other in names if other != name)]
            self.assertTrue(any(name in text for text in others), f"nothing calls {name}")


class Workflows(unittest.TestCase):
    def test_they_call_targets_that_exist(self):
        for path in CALLERS:
            text = path.read_text()
            called = re.findall(r"^ *(?:- )?(?:run: make|step \d+) \"?([a-z-]+)", text, re.M)
            self.assertTrue(called or path.name == "run", path.name)
            known = targets() | {"server", "image-"}  # image-$DEVICE
            self.assertLessEqual(set(called), known, path.name)

    def test_actions_are_pinned_by_commit(self):
        for path in WORKFLOWS:
            for action in re.findall(r"uses: (.*)$", path.read_text(), re.M):
                if not action.startswith("./"):
                    self.assertRegex(action, r"^[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", path.name)

    def test_the_compiler_is_that_of_the_images(self):
        version = re.search(r"^ARG RUST_VERSION=(.*)$", (ROOT / "Dockerfile.cpu").read_text(), re.M)[1]
        for path in WORKFLOWS:
            text = path.read_text()
            named = re.findall(r'RUSTUP_TOOLCHAIN: "(.*)"', text) + re.findall(r"rust:([\d.]+)-", text)
            self.assertLessEqual(set(named), {version}, path.name)

    def test_jobs_have_limits_and_few_rights(self):
        for path in WORKFLOWS:
            workflow = YAML(typ="safe").load(path)
            self.assertEqual(workflow["permissions"], {"contents": "read"}, path.name)
            for name, job in workflow["jobs"].items():
                self.assertTrue("timeout-minutes" in job or "uses" in job, f"{path.name}: {name}")


if __name__ == "__main__":
    result = unittest.main(exit=False, verbosity=1).result
    sys.exit(not result.wasSuccessful())
