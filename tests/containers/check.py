"""Facts that hold for every image and every compose file; run by `tests/containers/run`."""

import json
import re
import subprocess
import sys
import tomllib
import unittest
from pathlib import Path
from textwrap import dedent

import dockerfile
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ["Dockerfile.cpu", "Dockerfile.gpu"]
COMPOSE = {"docker-compose.cpu.yml": "Dockerfile.cpu", "docker-compose.gpu.yml": "Dockerfile.gpu"}
GUIDES = ["docs/deploy-gpu.md", "docs/operations.md", "docs/coolify.md", "docs/capacity.md"]
MONITORING = "deploy/monitoring"
SCALED = "deploy/scale/docker-compose.scale.yml"
HAPROXY = "deploy/scale/haproxy.cfg"
PORT = 8002
LEAST_START_PERIOD = 120  # seconds, as in the compose file that ours replaces
DRAIN = 30  # seconds: the default of RERANKER_DRAIN_TIMEOUT_MS
SECRET = re.compile(r"TOKEN|KEY|SECRET|PASSWORD|CREDENTIAL")
# Paths, a size and a switch.
NO_SECRETS = {
    "RERANKER_API_KEY_FILE",
    "RERANKER_TLS_KEY",
    "RERANKER_TOKEN_CACHE_MB",
    "HF_TOKEN_PATH",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN",
}
# What the image decides by itself, so that a compose file need not pass it on.
FIXED = {"RERANKER_HOST", "RERANKER_PORT", "HF_HOME", "HF_HUB_CACHE", "HF_TOKEN_PATH"}


def read(name):
    return (ROOT / name).read_text()


def options():
    """The variables of .env.example."""
    return set(re.findall(r"^# ([A-Z_]+)=", read(".env.example"), re.M))


def expand(text, variables):
    """`${NAME}` and `${NAME:-default}`, as in Dockerfiles and compose files."""
    return re.sub(
        r"\$\{(\w+)(?::-([^}]*))?\}", lambda found: variables.get(found[1]) or found[2] or "", text
    )


class Stage:
    def __init__(self, base, name, scope):
        self.base, self.name, self.variables, self.commands = base, name, dict(scope), []

    def all(self, instruction):
        return [command for command in self.commands if command.cmd == instruction]

    def last(self, instruction):
        return self.all(instruction)[-1]

    def value(self, instruction):
        return expand(" ".join(self.last(instruction).value), self.variables)


class Image:
    """A Dockerfile as Docker's own parser reads it, by stages."""

    def __init__(self, name):
        self.name = name
        self.text = read(name)
        self.arguments = {}
        self.stages = []
        scope = {}
        for command in dockerfile.parse_string(self.text):
            words = list(command.value)
            if command.cmd == "FROM":
                alias = words[2] if len(words) == 3 and words[1].upper() == "AS" else None
                self.stages.append(Stage(expand(words[0], scope), alias, {}))
                continue
            stage = self.stages[-1] if self.stages else None
            if command.cmd == "ARG":
                for word in words:
                    key, _, default = word.partition("=")
                    default = default.strip('"')
                    self.arguments.setdefault(key, default)
                    (stage.variables if stage else scope)[key] = default or scope.get(key, "")
            elif command.cmd == "ENV":
                stage.variables.update(zip(words[::2], words[1::2]))
            if stage:
                stage.commands.append(command)
        self.final = self.stages[-1]

    def copies(self):
        """(stage's number, stage or image copied from or None for the context, sources, destination)"""
        for number, stage in enumerate(self.stages):
            for command in stage.commands:
                if command.cmd in ("COPY", "ADD"):
                    origin = [flag.split("=", 1)[1] for flag in command.flags if flag.startswith("--from=")]
                    yield number, origin[0] if origin else None, command.value[:-1], command.value[-1]

    def sources(self):
        return [source.rstrip("/") for _, origin, sources, _ in self.copies() if origin is None for source in sources]


class Ignore:
    """.dockerignore: the last pattern decides that fits a path or one of the folders above it."""

    def __init__(self, text):
        lines = [line.strip() for line in text.splitlines()]
        self.patterns = [
            (not line.startswith("!"), self.expression(line.lstrip("!").strip("/")))
            for line in lines
            if line and not line.startswith("#")
        ]

    @staticmethod
    def expression(pattern):
        parts = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
        tokens = re.split(r"(\*\*/|\*\*|\*|\?)", pattern)
        return re.compile("".join(parts.get(token, re.escape(token)) for token in tokens))

    def excludes(self, path):
        folders = [path, *(str(parent) for parent in Path(path).parents if str(parent) != ".")]
        excluded = False
        for exclude, expression in self.patterns:
            if any(expression.fullmatch(folder) for folder in folders):
                excluded = exclude
        return excluded


def tracked():
    """The files of the checkout that git knows or would take."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [name for name in names.split("\0") if name and (ROOT / name).is_file()]


def seconds(text):
    units = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}
    parts = re.findall(r"(\d+)(ms|s|m|h)", text)
    assert "".join(number + unit for number, unit in parts) == text, text
    return sum(int(number) * units[unit] for number, unit in parts)


class Test(unittest.TestCase):
    def each(self, items):
        for item in items:
            with self.subTest(str(getattr(item, "name", item))):
                yield item

    def images(self):
        return self.each([Image(name) for name in IMAGES])

    def services(self):
        for name in self.each(COMPOSE):
            document = YAML(typ="safe").load(read(name))
            (service,) = document["services"].items()
            yield name, document, service[0], service[1]


class Dockerfiles(Test):
    def test_bases_are_pinned(self):
        for image in self.images():
            names = {stage.name for stage in image.stages}
            for stage in image.stages:
                if stage.base not in names:
                    self.assertRegex(stage.base, r"^[\w./-]+:[\w.-]*(\d|bookworm)[\w.-]*$")

    def test_what_is_copied_from_a_stage_names_one_before(self):
        for image in self.images():
            for number, origin, _, _ in image.copies():
                if origin is not None:
                    self.assertIn(origin, [stage.name for stage in image.stages[:number]])

    def test_every_stage_is_used(self):
        for image in self.images():
            used = {origin for _, origin, _, _ in image.copies()} | {stage.base for stage in image.stages}
            for stage in image.stages[:-1]:
                self.assertIn(stage.name, used)

    def test_what_is_copied_from_the_context_is_there_and_reaches_it(self):
        ignore, files = Ignore(read(".dockerignore")), tracked()
        for image in self.images():
            for source in image.sources():
                inside = [name for name in files if name == source or name.startswith(source + "/")]
                self.assertTrue(inside, f"{source} is not in the repository")
                hidden = [name for name in inside if ignore.excludes(name)]
                self.assertFalse(hidden, f".dockerignore keeps {hidden[:3]} from the build; add !{source}")

    def test_all_that_cargo_reads_is_copied(self):
        needed = ["Cargo.toml", "Cargo.lock", "src"] + ["build.rs"] * (ROOT / "build.rs").exists()
        for name, features in self.each([("Dockerfile.gpu", {"cuda"})]):
            image = Image(name)
            self.assertLessEqual(set(needed), set(image.sources()))
            self.assertLessEqual(features, set(tomllib.loads(read("Cargo.toml")).get("features", {})))
        for outside in re.findall(r'include_(?:bytes|str)!\(\s*"((?:\.\./)+[^"]+)"', "".join(map(read, rust_files()))):
            top = re.sub(r"^(\.\./)+", "", outside)
            for image in self.images():
                covered = any(top == s or top.startswith(s + "/") or (ROOT / "src" / top).exists() for s in image.sources())
                self.assertTrue(covered, f"{outside} is part of the program but not of the build")

    def test_the_context_holds_nothing_else(self):
        ignore = Ignore(read(".dockerignore"))
        sources = {source for name in IMAGES for source in Image(name).sources()}
        wanted = [name for name in tracked() if any(name == s or name.startswith(s + "/") for s in sources)]
        taken = [name for name in tracked() if not ignore.excludes(name)]
        self.assertEqual(set(taken) - set(wanted), set())
        for private in [".env", ".git/config", "secrets/keys", "key.pem", "target/release/reranker", "models/own/model.safetensors"]:
            self.assertTrue(ignore.excludes(private), private)

    def test_the_service_is_not_root(self):
        for image in self.images():
            self.assertRegex(image.final.value("USER"), r"^[1-9]\d{3,}:[1-9]\d{3,}$")
            after = image.final.commands[image.final.commands.index(image.final.last("USER")) + 1 :]
            self.assertFalse([command for command in after if command.cmd in ("RUN", "COPY", "ADD")])

    def test_users_are_the_same(self):
        self.assertEqual(len({Image(name).final.value("USER") for name in IMAGES}), 1)

    def test_it_is_healthy_when_it_says_so(self):
        for image in self.images():
            health = image.final.last("HEALTHCHECK")
            self.assertEqual(list(health.value), ["CMD", "reranker", "healthcheck"])
            flags = dict(flag.lstrip("-").split("=") for flag in health.flags)
            self.assertGreaterEqual(seconds(flags["start-period"]), LEAST_START_PERIOD)
            self.assertGreater(seconds(flags["timeout"]), 5)  # the command's own

    def test_the_rest_of_the_runtime(self):
        for image in self.images():
            self.assertEqual(image.final.value("EXPOSE"), str(PORT))
            self.assertEqual(list(image.final.last("ENTRYPOINT").value), ["reranker"])
            self.assertTrue(image.final.last("ENTRYPOINT").json)
            self.assertEqual(image.final.value("STOPSIGNAL"), "SIGTERM")
            self.assertEqual(image.final.variables["HF_HOME"], image.final.value("VOLUME"))
            self.assertTrue(any(origin and "reranker" in sources[0] for _, origin, sources, _ in image.copies()))

    def test_no_secret_is_baked_in(self):
        for image in self.images():
            names = set(image.arguments).union(*(stage.variables for stage in image.stages))
            self.assertFalse([name for name in names if SECRET.search(name)])

    def test_arguments_are_described_with_their_defaults(self):
        for image in self.images():
            header = re.match(r"(?:#.*\n)+", image.text)[0]
            described = dict(re.findall(r"^#   ([A-Z_]+) (?:.*\n#    )*?.*\[(.+)\]$", header, re.M))
            self.assertEqual(described, image.arguments)

    def test_the_compiler_is_new_enough_and_the_same(self):
        least = tomllib.loads(read("Cargo.toml"))["package"]["rust-version"]
        versions = {image.arguments["RUST_VERSION"] for image in self.images()}
        self.assertEqual(len(versions), 1)
        numbers = [int(part) for part in versions.pop().split(".")]
        self.assertGreaterEqual(numbers, [int(part) for part in least.split(".")])

    def test_the_locked_dependencies_are_built_first(self):
        for image in self.images():
            builds = [c.value[0] for stage in image.stages for c in stage.all("RUN") if "cargo build" in c.value[0]]
            self.assertEqual(len(builds), 2)
            commands = {re.search(r"cargo build[^&]*", build)[0].strip() for build in builds}
            self.assertEqual(len(commands), 1, "other options would build everything twice")
            self.assertIn("--locked", commands.pop())


class GpuImage(Test):
    image = Image("Dockerfile.gpu")

    def test_arguments(self):
        expected = {"CUDA_VERSION": "12.2.2", "UBUNTU": "22.04", "CUDA_COMPUTE_CAPABILITIES": "75 80 90"}
        self.assertEqual(expected | self.image.arguments, self.image.arguments)

    def test_the_c_library_it_is_built_on_is_the_one_it_runs_on(self):
        build = next(stage for stage in self.image.stages if stage.name == "build")
        self.assertEqual(build.base, "ubuntu:22.04")
        self.assertEqual(self.image.final.base, "nvidia/cuda:12.2.2-base-ubuntu22.04")

    def test_it_is_built_for_gpus(self):
        builds = [c.value[0] for stage in self.image.stages for c in stage.all("RUN") if "cargo build" in c.value[0]]
        self.assertTrue(all("--features cuda" in build for build in builds))
        self.assertIn('RERANKER_CUDA_CAPABILITIES="${CUDA_COMPUTE_CAPABILITIES}"', builds[-1])
        if (ROOT / "build.rs").exists():
            self.assertIn(f'"{self.image.arguments["CUDA_COMPUTE_CAPABILITIES"]}"', read("build.rs"))
            self.assertIn("RERANKER_CUDA_CAPABILITIES", read("build.rs"))

    def test_it_asks_for_the_driver_and_brings_the_products(self):
        self.assertEqual(self.image.final.variables["NVIDIA_DRIVER_CAPABILITIES"], "compute,utility")
        toolkit = self.image.stages[0]
        self.assertIn("libcublasLt.so.12 /toolkit/run/", toolkit.last("RUN").value[0])
        self.assertIn((len(self.image.stages) - 1, "toolkit", ("/toolkit/run/",), "/usr/local/lib/"), list(self.image.copies()))

    def test_old_health_checks_find_curl(self):
        self.assertRegex(self.image.final.all("RUN")[0].value[0], r"apt-get install .*\bcurl\b")


class ComposeFiles(Test):
    def test_every_file_is_known(self):
        found = [*ROOT.glob("*compose*.y*ml"), *ROOT.glob("deploy/**/*compose*.y*ml")]
        known = {*COMPOSE, SCALED, f"{MONITORING}/docker-compose.monitoring.yml"}
        self.assertEqual({str(path.relative_to(ROOT)) for path in found}, known)

    def test_it_builds_its_image(self):
        for name, _, _, service in self.services():
            self.assertEqual(service["build"], {"context": ".", "dockerfile": COMPOSE[name]})

    def test_no_obsolete_version(self):
        for _, document, _, _ in self.services():
            self.assertNotIn("version", document)

    def test_the_port(self):
        for _, _, _, service in self.services():
            self.assertEqual(service["ports"], [f"{PORT}:{PORT}"])

    def test_the_model_survives_its_container(self):
        for name, document, _, service in self.services():
            (volume,) = service["volumes"]
            source, target = volume.split(":")
            self.assertIn(source, document["volumes"])
            self.assertEqual(target, Image(COMPOSE[name]).final.value("VOLUME"))

    def test_it_is_watched_and_restarted(self):
        for _, _, _, service in self.services():
            health = service["healthcheck"]
            self.assertEqual(health["test"], ["CMD", "reranker", "healthcheck"])
            self.assertGreaterEqual(seconds(health["start_period"]), LEAST_START_PERIOD)
            self.assertEqual(service["restart"], "unless-stopped")
            self.assertGreater(seconds(service["stop_grace_period"]), DRAIN)

    def test_it_has_no_privileges(self):
        for _, _, _, service in self.services():
            self.assertIs(service["read_only"], True)
            self.assertEqual(service["cap_drop"], ["ALL"])
            self.assertEqual(service["security_opt"], ["no-new-privileges:true"])
            self.assertFalse({"privileged", "network_mode", "pid", "ipc", "cap_add"} & set(service))

    def test_variables_are_options_and_secrets_come_from_outside(self):
        for _, _, _, service in self.services():
            environment = service["environment"]
            self.assertLessEqual(set(environment), options())
            given = [name for name, value in environment.items() if value and SECRET.search(name)]
            self.assertEqual(given, [])

    def test_the_default_model(self):
        for _, _, _, service in self.services():
            self.assertEqual(expand(service["environment"]["RERANKER_MODEL"], {}), "BAAI/bge-reranker-v2-m3")


class GpuCompose(Test):
    service = YAML(typ="safe").load(read("docker-compose.gpu.yml"))["services"]["reranker-gpu"]

    def test_it_reserves_a_gpu(self):
        devices = self.service["deploy"]["resources"]["reservations"]["devices"]
        self.assertEqual(devices, [{"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}])
        self.assertEqual(self.service["environment"]["DEVICE"], "cuda")
        self.assertEqual(self.service["container_name"], "reranker-gpu")

    def test_every_option_can_be_set(self):
        missing = options() - FIXED - set(self.service["environment"])
        self.assertEqual(missing, set(), "pass these on in docker-compose.gpu.yml")


class Monitoring(Test):
    """What goes beside either compose file; `tests/monitoring/run` has its programs run."""

    services = YAML(typ="safe").load(read(f"{MONITORING}/docker-compose.monitoring.yml"))["services"]
    prometheus = YAML(typ="safe").load(read(f"{MONITORING}/prometheus.yml"))
    groups = YAML(typ="safe").load(read(f"{MONITORING}/alerts.yml"))["groups"]

    def test_prometheus_finds_the_server_of_either_file(self):
        (job,) = self.prometheus["scrape_configs"]
        (found,) = job["dns_sd_configs"]
        self.assertEqual((found["names"], found["port"]), (["reranker"], PORT))
        for name in self.each(COMPOSE):
            ((service, options),) = YAML(typ="safe").load(read(name))["services"].items()
            aliases = options.get("networks", {}).get("default", {}).get("aliases", [])
            self.assertIn("reranker", [service, *aliases])

    def test_files_that_are_mounted_exist(self):
        for service in self.each(self.services.values()):
            for volume in service["volumes"]:
                if volume.startswith("."):
                    self.assertTrue((ROOT / volume.split(":")[0]).exists(), volume)

    def test_images_have_versions_and_ports_are_local(self):
        for service in self.each(self.services.values()):
            self.assertRegex(service["image"], r":v?\d+\.\d+\.\d+$")
            for port in service["ports"]:
                self.assertTrue(port.startswith("127.0.0.1:"), port)

    def test_services_find_each_other(self):
        (managers,) = self.prometheus["alerting"]["alertmanagers"][0]["static_configs"]
        self.assertEqual([target.split(":")[0] for target in managers["targets"]], ["alertmanager"])
        source = YAML(typ="safe").load(read(f"{MONITORING}/grafana/provisioning/datasources/prometheus.yml"))
        self.assertEqual(source["datasources"][0]["url"], "http://prometheus:9090")
        self.assertLessEqual({"alertmanager", "prometheus"}, set(self.services))

    def test_each_alert_has_a_paragraph(self):
        pages = [read("docs/operations.md"), read("docs/fr/operations.md")]
        alerts = [rule for group in self.groups for rule in group["rules"]]
        for alert in self.each(alerts):
            name = alert["alert"]
            self.assertEqual(alert["annotations"]["runbook_url"], f"docs/operations.md#{name.lower()}")
            for page in pages:
                self.assertRegex(page, rf"(?m)^### {name}\n\n\w")


class ScaledCompose(Test):
    """Several servers, HAProxy and a Redis; `tests/scale/run` has them run."""

    document = YAML(typ="safe").load(read(SCALED))
    haproxy = document["services"]["haproxy"]
    reranker = document["services"]["reranker"]
    redis = document["services"]["redis"]
    configuration = read(HAPROXY)

    def variable(self, name):
        return re.search(rf"^ +presetenv {name} (\S+)$", self.configuration, re.M)[1]

    def time(self, name):
        return seconds(re.search(rf"^ +timeout {name} (\S+)$", self.configuration, re.M)[1])

    def default(self, name):
        """The default of an option that is a time in milliseconds, in seconds."""
        return int(re.search(rf"^# {name}=(\d+)$", read(".env.example"), re.M)[1]) / 1000

    def test_servers_are_as_in_the_other_file(self):
        single = YAML(typ="safe").load(read("docker-compose.cpu.yml"))["services"]["reranker"]
        same = ["image", "restart", "stop_grace_period", "healthcheck", "volumes"]
        for name in [*same, "read_only", "cap_drop", "security_opt"]:
            self.assertEqual(self.reranker[name], single[name], name)
        build = {"context": "../..", "dockerfile": single["build"]["dockerfile"]}
        self.assertEqual(self.reranker["build"], build)
        self.assertTrue((ROOT / SCALED).parent.joinpath(build["context"], build["dockerfile"]).exists())
        environment = dict(self.reranker["environment"])
        self.assertIn("RAYON_NUM_THREADS", environment)
        del environment["RAYON_NUM_THREADS"]
        own = {"RERANKER_REDIS_URL"}
        self.assertLessEqual(set(environment), options())
        for name in set(environment) - own:
            self.assertEqual(environment[name], single["environment"][name], name)

    def test_services_find_each_other(self):
        self.assertIn(self.variable("REPLICA_NAME"), self.document["services"])
        self.assertEqual(self.variable("REPLICA_PORT"), str(PORT))
        self.assertEqual(self.haproxy["ports"][0], f"{PORT}{self.variable('LISTEN')}")
        self.assertTrue(self.haproxy["ports"][1].endswith(self.variable("STATUS")))
        self.assertIn(f"127.0.0.1{self.variable('STATUS')}/ready", self.haproxy["healthcheck"]["test"][-1])
        host = re.fullmatch(r"redis://([a-z]+):6379/0", self.reranker["environment"]["RERANKER_REDIS_URL"])[1]
        self.assertIs(self.document["services"][host], self.redis)
        source = self.haproxy["volumes"][0].split(":")[0]
        self.assertEqual((ROOT / SCALED).parent.joinpath(source), ROOT / HAPROXY)

    def test_only_the_balancer_is_published(self):
        self.assertEqual([name for name, each in self.document["services"].items() if "ports" in each], ["haproxy"])

    def test_all_are_watched_restarted_and_without_privileges(self):
        for service in self.each(self.document["services"].values()):
            self.assertIn("test", service["healthcheck"])
            self.assertEqual(service["restart"], "unless-stopped")
            self.assertIs(service["read_only"], True)
            self.assertEqual(service["cap_drop"], ["ALL"])
            self.assertEqual(service["security_opt"], ["no-new-privileges:true"])

    def test_times_fit_those_of_the_server(self):
        self.assertGreater(self.time("server"), self.default("RERANKER_DEADLINE_MS"))
        self.assertGreater(seconds(self.haproxy["stop_grace_period"]), self.time("server"))
        self.assertLess(self.time("http-keep-alive"), self.default("RERANKER_IDLE_TIMEOUT_MS"))
        self.assertGreaterEqual(self.time("http-request"), self.default("RERANKER_HEADER_TIMEOUT_MS"))
        self.assertGreater(self.time("client"), self.default("RERANKER_BODY_TIMEOUT_MS"))
        body = re.search(r"wait-for-body time (\S+)", self.configuration)[1]
        self.assertEqual(seconds(body), self.default("RERANKER_BODY_TIMEOUT_MS"))


class Guides(Test):
    texts = {name: read(name) for name in GUIDES}

    def blocks(self, language):
        """The fenced texts of all pages, those in lists too."""
        fence = re.compile(rf"^( *)```{language}\n(.*?)^ *```$", re.M | re.S)
        return [
            (name, dedent(found[2])) for name, text in self.texts.items() for found in fence.finditer(text)
        ]

    def test_commands_parse(self):
        blocks = self.blocks("sh")
        self.assertEqual({name for name, _ in blocks}, set(GUIDES) - {"docs/capacity.md"})
        for name, block in blocks:
            done = subprocess.run(["bash", "-n"], input=block, text=True, capture_output=True)
            self.assertEqual(done.returncode, 0, f"{name}: {done.stderr}{block}")

    def test_json_and_yaml_parse(self):
        for _, block in self.blocks("json"):
            json.loads(block)
        for _, block in self.blocks("yaml"):
            YAML(typ="safe").load(block)

    def test_options_exist(self):
        of_ragfab = {"RERANKER_API_URL", "RERANKER_ENABLED", "RERANKER_TOP_K", "RERANKER_RETURN_K"}
        of_the_driver = {"CUDA_VISIBLE_DEVICES", "CUDA_ERROR_"}
        of_the_build = {"RERANKER_CUDA_CAPABILITIES", "CUDA_VERSION", "CUDA_COMPUTE_CAPABILITIES"}
        for name, text in self.texts.items():
            named = set(re.findall(r"\b(?:RERANKER|CUDA)_[A-Z_]+\b", text))
            unknown = named - options() - of_ragfab - of_the_driver - of_the_build
            self.assertEqual(unknown, set(), name)


def rust_files():
    return [str(path.relative_to(ROOT)) for path in (ROOT / "src").rglob("*.rs")]


if __name__ == "__main__":
    result = unittest.main(exit=False, verbosity=1).result
    failed = len(result.failures) + len(result.errors)
    print(f"{result.testsRun - min(failed, result.testsRun)} passed, {failed} failed")
    sys.exit(bool(failed))
