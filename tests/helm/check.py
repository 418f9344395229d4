"""Facts that hold for the Helm chart with every set of values; run by `tests/helm/run`."""

import copy
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import unittest
from pathlib import Path

import helm_python as helm
import yaml

import schemas

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy/helm/reranker"
SETS = sorted((CHART / "ci").glob("*.yaml"))
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
VERSION = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]["version"]
NAMESPACE = "search"
# What the program reads beside its options.
OF_THE_RUNTIME = {"RAYON_NUM_THREADS", "HTTPS_PROXY"}


def options():
    """The variables of .env.example with their defaults."""
    return dict(re.findall(r"^# ([A-Z_]+)=(.*)$", (ROOT / ".env.example").read_text(), re.M))


class Rendered:
    """What an installation of the chart would make."""

    def __init__(self, values, release="search", chart=CHART):
        with helm.Chart.load(chart) as chart:
            chart.validate_schema(values)
            texts = chart.render(values, name=release, namespace=NAMESPACE)
            self.values = chart.merge_values(values)
        self.notes = texts.pop("reranker/templates/NOTES.txt")
        self.objects = [each for text in texts.values() for each in yaml.safe_load_all(text) if each]

    def all(self, kind):
        return [each for each in self.objects if each["kind"] == kind]

    def only(self, kind):
        (found,) = self.all(kind)
        return found

    def workload(self):
        return self.only(self.values["workload"])

    def pod(self):
        spec = self.workload()["spec"]
        return spec["predictor"] if "predictor" in spec else spec["template"]["spec"]

    def labels(self):
        spec = self.workload()["spec"]
        return spec["predictor"]["labels"] if "predictor" in spec else spec["template"]["metadata"]["labels"]

    def container(self):
        (container,) = self.pod()["containers"]
        return container

    def variables(self):
        pairs = [(each["name"], each.get("value", each.get("valueFrom"))) for each in self.container()["env"]]
        assert len(pairs) == len(dict(pairs)), "a variable is there twice"
        return dict(pairs)


class Everywhere(unittest.TestCase):
    """Each value set of ci/."""

    def each(self):
        for path in SETS:
            with self.subTest(path.name):
                yield Rendered(yaml.safe_load(path.read_text()))

    def test_there_are_a_dozen(self):
        self.assertGreaterEqual(len(SETS), 12)

    def test_objects_fit_their_schemas(self):
        for rendered in self.each():
            for document in rendered.objects:
                name = f"{document['kind']} {document['metadata']['name']}"
                self.assertEqual(schemas.problems(document), [], name)

    def test_names_are_there_once(self):
        for rendered in self.each():
            names = [(each["kind"], each["metadata"]["name"]) for each in rendered.objects]
            self.assertEqual(len(names), len(set(names)))

    def test_all_that_selects_pods_finds_these(self):
        for rendered in self.each():
            found = []
            for each in rendered.objects:
                spec = each.get("spec", {})
                selector = {
                    "Service": lambda: spec["selector"],
                    "Deployment": lambda: spec["selector"]["matchLabels"],
                    "StatefulSet": lambda: spec["selector"]["matchLabels"],
                    "PodDisruptionBudget": lambda: spec["selector"]["matchLabels"],
                    "NetworkPolicy": lambda: spec["podSelector"]["matchLabels"],
                }.get(each["kind"])
                if selector:
                    found.append(each["kind"])
                    self.assertTrue(selector())
                    self.assertLessEqual(selector().items(), rendered.labels().items(), each["kind"])
                    test = rendered.only("Pod")["metadata"]["labels"]
                    self.assertFalse(selector().items() <= test.items(), "the test's pod is no server")
            self.assertTrue(found)

    def test_monitors_find_one_service(self):
        for rendered in self.each():
            for monitor in rendered.all("ServiceMonitor"):
                selector = monitor["spec"]["selector"]
                self.assertEqual([each["operator"] for each in selector["matchExpressions"]], ["DoesNotExist"])
                absent = {each["key"] for each in selector["matchExpressions"]}
                services = [
                    each
                    for each in rendered.all("Service")
                    if selector["matchLabels"].items() <= each["metadata"]["labels"].items()
                    and not absent & set(each["metadata"]["labels"])
                ]
                self.assertEqual(len(services), 1)
                job = services[0]["metadata"]["labels"][monitor["spec"]["jobLabel"]]
                alerts = (CHART / "files/alerts.yml").read_text()
                self.assertLessEqual(set(re.findall(r'job="([^"]*)"', alerts)), {job})
                self.assertIn(monitor["spec"]["endpoints"][0]["port"], [p["name"] for p in services[0]["spec"]["ports"]])

    def test_autoscalers_scale_what_is_there(self):
        for rendered in self.each():
            for each in rendered.all("HorizontalPodAutoscaler") + rendered.all("ScaledObject"):
                target, workload = each["spec"]["scaleTargetRef"], rendered.workload()
                self.assertEqual(target["name"], workload["metadata"]["name"])
                self.assertEqual((target["apiVersion"], target["kind"]), (workload["apiVersion"], workload["kind"]))
                self.assertNotIn("replicas", workload["spec"], "each upgrade would undo the autoscaler")

    def test_a_pod_ends_when_it_is_done_and_not_before(self):
        for rendered in self.each():
            drain = int(rendered.variables()["RERANKER_DRAIN_TIMEOUT_MS"]) / 1000
            command, stop = rendered.container()["lifecycle"]["preStop"]["exec"]["command"]
            self.assertEqual(command, "sleep")
            self.assertGreater(rendered.pod()["terminationGracePeriodSeconds"], drain + int(stop))
            probe = rendered.container()["readinessProbe"]
            self.assertGreaterEqual(int(stop), probe["periodSeconds"])

    def test_probes_mean_three_things(self):
        for rendered in self.each():
            container = rendered.container()
            asked = {name: container[name] for name in ("startupProbe", "readinessProbe", "livenessProbe")}
            paths = {name: probe["httpGet"]["path"] for name, probe in asked.items()}
            self.assertEqual(paths, {"startupProbe": "/health", "readinessProbe": "/health", "livenessProbe": "/ping"})
            time = {name: probe["periodSeconds"] * probe["failureThreshold"] for name, probe in asked.items()}
            self.assertLess(time["readinessProbe"], time["livenessProbe"])
            self.assertLess(time["livenessProbe"], time["startupProbe"])
            scheme = "HTTPS" if rendered.values["tls"]["existingSecret"] else "HTTP"
            self.assertEqual({probe["httpGet"]["scheme"] for probe in asked.values()}, {scheme})
            self.assertEqual({probe["httpGet"]["port"] for probe in asked.values()}, {"http"})

    def test_pods_have_no_privileges(self):
        for rendered in self.each():
            for pod in [rendered.pod(), rendered.only("Pod")["spec"]]:
                self.assertIs(pod["automountServiceAccountToken"], False)
                self.assertIs(pod["securityContext"]["runAsNonRoot"], True)
                self.assertEqual(pod["securityContext"]["runAsUser"], 10001)
                for container in pod["containers"]:
                    context = container["securityContext"]
                    self.assertIs(context["readOnlyRootFilesystem"], True)
                    self.assertIs(context["allowPrivilegeEscalation"], False)
                    self.assertEqual(context["capabilities"], {"drop": ["ALL"]})

    def test_the_user_is_that_of_the_images(self):
        for name in ("Dockerfile.cpu", "Dockerfile.gpu"):
            self.assertIn("ARG APP_UID=10001", (ROOT / name).read_text())

    def test_variables_are_options(self):
        for rendered in self.each():
            self.assertLessEqual(set(rendered.variables()), set(options()) | OF_THE_RUNTIME)

    def test_what_is_mounted_is_a_volume(self):
        for rendered in self.each():
            spec = rendered.workload()["spec"]
            volumes = {each["name"] for each in rendered.pod().get("volumes", [])}
            volumes |= {each["metadata"]["name"] for each in spec.get("volumeClaimTemplates", [])}
            mounts = {each["name"]: each["mountPath"] for each in rendered.container()["volumeMounts"]}
            self.assertEqual(volumes, set(mounts))
            self.assertEqual(mounts["models"], "/models")
            for name in ("RERANKER_API_KEY_FILE", "RERANKER_TLS_CERT", "RERANKER_TLS_KEY"):
                if path := rendered.variables().get(name):
                    self.assertIn(str(Path(path).parent), mounts.values())

    def test_secrets_that_are_used_are_made_or_named_by_the_user(self):
        for rendered in self.each():
            made = {(each["metadata"]["name"], key) for each in rendered.all("Secret") for key in each["stringData"]}
            used = {
                (value["secretKeyRef"]["name"], value["secretKeyRef"]["key"])
                for value in rendered.variables().values()
                if isinstance(value, dict) and "secretKeyRef" in value
            }
            for monitor in rendered.all("ServiceMonitor"):
                for endpoint in monitor["spec"]["endpoints"]:
                    if "authorization" in endpoint:
                        credentials = endpoint["authorization"]["credentials"]
                        used.add((credentials["name"], credentials["key"]))
            for volume in rendered.pod().get("volumes", []):
                if volume["name"] == "keys":
                    file = Path(rendered.variables()["RERANKER_API_KEY_FILE"]).name
                    used.add((volume["secret"]["secretName"], file))
            theirs = {
                value["existingSecret"]
                for value in rendered.values.values()
                if isinstance(value, dict) and value.get("existingSecret")
            }
            self.assertEqual({entry for entry in used if entry[0] not in theirs} - made, set())

    def test_no_secret_is_a_plain_variable(self):
        for rendered in self.each():
            for name, value in rendered.variables().items():
                if name in ("HF_TOKEN", "RERANKER_REDIS_URL", "RERANKER_CACHE_SECRET"):
                    self.assertIsInstance(value, dict, name)

    def test_the_notes_say_where_it_answers(self):
        for rendered in self.each():
            scheme = "https" if rendered.values["tls"]["existingSecret"] else "http"
            self.assertRegex(rendered.notes, rf"{scheme}://[a-z-]+\.{NAMESPACE}:\d+\n")
            self.assertEqual("No API key" in rendered.notes, "RERANKER_API_KEY_FILE" not in rendered.variables())


class Defaults(unittest.TestCase):
    def test_on_the_cpu(self):
        rendered = Rendered({})
        self.assertEqual(rendered.container()["image"], f"reranker:{VERSION}-cpu")
        self.assertEqual(rendered.variables()["DEVICE"], "cpu")
        self.assertEqual(rendered.variables()["RERANKER_MODEL"], options()["RERANKER_MODEL"])
        kinds = sorted(each["kind"] for each in rendered.objects)
        self.assertEqual(kinds, ["Deployment", "Pod", "PodDisruptionBudget", "Service", "ServiceAccount"])

    def test_on_a_gpu(self):
        rendered = Rendered({"gpu": {"enabled": True}})
        self.assertEqual(rendered.container()["image"], f"reranker:{VERSION}-gpu")
        self.assertEqual(rendered.variables()["DEVICE"], "cuda")
        self.assertEqual(rendered.variables()["RERANKER_REQUIRE_GPU"], "true")
        limits = rendered.container()["resources"]["limits"]
        self.assertEqual(limits, VALUES["resources"]["limits"] | {"nvidia.com/gpu": 1})
        taint = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
        self.assertEqual(rendered.pod()["tolerations"], [taint])
        # A new pod finds no GPU before an old one ends.
        self.assertEqual(rendered.workload()["spec"]["strategy"]["rollingUpdate"]["maxSurge"], 0)

    def test_on_two_gpus(self):
        rendered = Rendered({"gpu": {"enabled": True, "count": 2}})
        self.assertEqual(rendered.variables()["DEVICE"], "cuda:0,cuda:1")
        self.assertEqual(rendered.container()["resources"]["limits"]["nvidia.com/gpu"], 2)

    def test_names_follow_the_release(self):
        for release, name in [("search", "search-reranker"), ("reranker", "reranker"), ("x" * 53, "x" * 52)]:
            self.assertEqual(Rendered({}, release).workload()["metadata"]["name"], name)

    def test_large_numbers_stay_whole(self):
        rendered = Rendered({"options": {"RERANKER_MAX_BODY_BYTES": 33554432, "HF_HUB_OFFLINE": True}})
        self.assertEqual(rendered.variables()["RERANKER_MAX_BODY_BYTES"], "33554432")
        self.assertEqual(rendered.variables()["HF_HUB_OFFLINE"], "true")

    def test_a_changed_secret_starts_pods_anew(self):
        def checksum(token):
            values = {"hubToken": VALUES["hubToken"] | {"value": token}}
            return Rendered(values).workload()["spec"]["template"]["metadata"]["annotations"]["checksum/secret"]

        self.assertNotEqual(checksum("a"), checksum("b"))


class Chart(unittest.TestCase):
    def test_versions_are_that_of_the_program(self):
        chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
        self.assertEqual((chart["version"], chart["appVersion"]), (VERSION, VERSION))
        self.assertIn(f">={schemas.VERSIONS[0]}.", chart["kubeVersion"])

    def test_a_release_names_its_images(self):
        """The release workflow changes one line of a copy of values.yaml."""
        text = (ROOT / ".github/workflows/release.yml").read_text()
        command = re.search(r"^ +(sed -i .*) deploy/helm/reranker/values.yaml$", text, re.M)[1]
        with tempfile.TemporaryDirectory() as folder:
            released = shutil.copytree(CHART, Path(folder) / "reranker")
            environment = {"PATH": os.environ["PATH"], "GITHUB_REPOSITORY": "Owner/Service"}
            subprocess.run(["bash", "-c", f"{command} {released}/values.yaml"], env=environment, check=True)
            self.assertEqual(Rendered({}, chart=released).container()["image"], f"ghcr.io/owner/service:{VERSION}-cpu")

    def test_helm_finds_nothing_wrong(self):
        for path in SETS:
            report = helm.lint(CHART, yaml.safe_load(path.read_text()))
            messages = [each["error"] for each in report["messages"]]
            self.assertEqual(messages, ["icon is recommended"], path.name)

    def test_the_package_has_all_that_the_folder_has(self):
        with tempfile.TemporaryDirectory() as folder:
            with helm.Chart.load(CHART) as chart:
                archive = chart.save(folder)
            with helm.Chart.load(archive) as packed:
                texts = packed.render({"monitoring": {"prometheusRule": True}}, name="search", namespace=NAMESPACE)
                files = {each["name"] for each in packed.files}
        rendered = Rendered({"monitoring": {"prometheusRule": True}})
        objects = [each for name, text in texts.items() if not name.endswith(".txt") for each in yaml.safe_load_all(text)]
        self.assertEqual([each for each in objects if each], rendered.objects)
        self.assertFalse([name for name in files if name.startswith("ci/")])

    def test_alerts_are_those_of_the_repository(self):
        # Helm reads no file outside the chart, and a link would be a message at each installation.
        text = (ROOT / "deploy/monitoring/alerts.yml").read_text()
        self.assertEqual((CHART / "files/alerts.yml").read_text(), text, "copy it")
        rules = yaml.safe_load(text)
        self.assertTrue(rules["groups"])
        rendered = Rendered({"monitoring": {"prometheusRule": True}})
        self.assertEqual(rendered.only("PrometheusRule")["spec"], rules)

    def test_the_table_of_values_is_complete(self):
        table = (CHART / "README.md").read_text().partition("\n## Values\n")[2]
        rows = re.findall(r"^\| `([\w.]+)` \| (.*?) \| .+ \|$", table, re.M)
        self.assertEqual(dict(rows), {path: cell(value) for path, value in leaves(VALUES)})

    def test_the_schema_knows_all_values(self):
        schema = yaml.safe_load((CHART / "values.schema.json").read_text())
        self.assertEqual(set(schema["properties"]) - {"global"}, set(VALUES))


class Refused(unittest.TestCase):
    """Values that Helm must not take."""

    def test_mistakes(self):
        mistakes = {
            "a name that is not known": {"replicaCount": 3},
            "one further down": {"gpu": {"enable": True}},
            "text for a number": {"replicas": "3"},
            "a number that options would not have whole": {"options": {"RERANKER_CACHE_TTL": 0.5}},
            "an option that a value sets": {"options": {"RERANKER_PORT": 9000}},
            "a key among the options": {"options": {"RERANKER_API_KEY": "secret"}},
            "something that is no option": {"options": {"PATH": "/bin"}},
            "a kind of workload that is not there": {"workload": "DaemonSet"},
            "a Deployment with a volume for each pod": {"model": {"cache": {"type": "claimTemplate"}}},
            "no GPU": {"gpu": {"enabled": True, "count": 0}},
            "two autoscalers": {"workload": "InferenceService", "autoscaling": {"type": "hpa"}},
            "a key with a blank": {"apiKeys": {"create": ["two words"]}},
            "a size without sense": {"model": {"cache": {"size": "large"}}},
            "a time that never ends": {"drain": {"timeoutSeconds": -1}},
        }
        for what, values in mistakes.items():
            with self.subTest(what), helm.Chart.load(CHART) as chart:
                self.assertRaises(helm.HelmValuesError, chart.validate_schema, values)

    def test_schemas_of_objects_refuse_too(self):
        sets = ["hpa.yaml", "keda.yaml", "kserve.yaml", "closed.yaml", "keys.yaml", "statefulset.yaml"]
        kinds = set()
        for path in SETS:
            if path.name not in sets:
                continue
            for document in Rendered(yaml.safe_load(path.read_text())).objects:
                kinds.add(document["kind"])
                broken = copy.deepcopy(document)
                broken.setdefault("spec" if "spec" in document else "metadata", {})["unheardOf"] = 1
                self.assertNotEqual(schemas.problems(broken), [], document["kind"])
        custom = {"ScaledObject", "ServiceMonitor", "PrometheusRule", "InferenceService"}
        self.assertLessEqual(custom | {"Deployment", "HorizontalPodAutoscaler", "NetworkPolicy"}, kinds)


def leaves(values, path=""):
    """(`gpu.count`, 1) and so on. Lists are leaves, and so are objects that are empty."""
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{path}{name}.")
        else:
            yield path + name, value


def cell(value):
    """A default as the table writes it."""
    if value in ("", [], {}) or value is None:
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


if __name__ == "__main__":
    result = unittest.main(exit=False, verbosity=1).result
    failed = len(result.failures) + len(result.errors)
    print(f"{result.testsRun - min(failed, result.testsRun)} passed, {failed} failed")
    sys.exit(bool(failed))
