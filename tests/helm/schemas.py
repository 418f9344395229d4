"""What the objects of a chart must look like, by `apiVersion` and `kind`.

Kubernetes' own schemas come with `kubernetes-validate`. Custom resources have three sources: models
of KEDA and of the Prometheus operator, which `cloudcoil` generates from their definitions, and the
models of KServe's SDK, which are read without running it.
"""

import ast
import functools
import importlib
import importlib.util
import json
import re
from pathlib import Path

import kubernetes_validate
from jsonschema import Draft202012Validator

# The oldest that Chart.yaml allows, one in the middle, the newest that the package has.
VERSIONS = ["1.25", "1.30", kubernetes_validate.latest_version()]
MODULES = {
    "keda.sh/v1alpha1": "cloudcoil.models.keda.v1alpha1",
    "monitoring.coreos.com/v1": "cloudcoil.models.prometheus_operator.v1",
}


def problems(document):
    """Sentences about what is wrong with one object; none if it is right."""
    version, kind = document["apiVersion"], document["kind"]
    if version == "serving.kserve.io/v1beta1":
        return inference_service_problems(document)
    if version in MODULES:
        return model_problems(getattr(importlib.import_module(MODULES[version]), kind), document)
    return [problem for each in VERSIONS for problem in kubernetes_problems(document, each)]


def kubernetes_problems(document, version):
    try:
        kubernetes_validate.validate(document, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{version}: {'.'.join(map(str, error.path))}: {error.message}"]
    except kubernetes_validate.SchemaNotFoundError as error:
        return [error.message]
    return []


def model_problems(model, document):
    """Pydantic checks types and what is required, and drops what it does not know."""
    try:
        kept = model.model_validate(document).model_dump(mode="json", by_alias=True, exclude_unset=True)
    except ValueError as error:
        return [str(error)]
    return [f"{path} is not known" for path in missing(document, kept)]


def missing(given, kept, path=""):
    if isinstance(given, dict):
        for key, value in given.items():
            if isinstance(kept, dict) and key in kept:
                yield from missing(value, kept[key], f"{path}.{key}")
            else:
                yield f"{path}.{key}"
    elif isinstance(given, list):
        for index, value in enumerate(given):
            yield from missing(value, kept[index], f"{path}[{index}]")


def inference_service_problems(document):
    validator = Draft202012Validator(kserve_schema())
    return [f"{error.json_path}: {error.message[:300]}" for error in validator.iter_errors(document)]


@functools.cache
def kserve_schema():
    """A JSON schema of InferenceService: KServe's classes, and Kubernetes' definitions below."""
    folder = Path(importlib.util.find_spec("kserve").origin).parent / "models"
    files = {re.search(r"^class (\w+)", path.read_text(), re.M)[1]: path for path in folder.glob("v1*.py")}
    package = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema"
    newest = package / f"v{kubernetes_validate.latest_version()}-local-strict"
    text = (newest / "_definitions.json").read_text()
    definitions = json.loads(text.replace("_definitions.json#", "#"))["$defs"]
    short = {name.rsplit(".", 1)[1]: name for name in definitions if name.startswith("io.k8s.api.core.v1.")}

    def schema(kind):
        plain = {"str": "string", "int": "integer", "bool": "boolean", "float": "number", "object": "object"}
        if kind in plain:
            return {"type": plain[kind]}
        if inner := re.fullmatch(r"list\[(.+)\]", kind):
            return {"type": "array", "items": schema(inner[1])}
        if inner := re.fullmatch(r"dict\(str, (.+)\)", kind):
            return {"type": "object", "additionalProperties": schema(inner[1])}
        if kind.removeprefix("V1") in short:
            return {"$ref": f"#/$defs/{short[kind.removeprefix('V1')]}"}
        if kind in files:
            define(kind)
            return {"$ref": f"#/$defs/{kind}"}
        return {}  # such as ResourceQuantity: a string or a number

    def define(kind):
        if kind in definitions:
            return
        definitions[kind] = {}
        types, names = attributes(files[kind])
        properties = {names[key]: schema(value) for key, value in types.items()}
        definitions[kind] = {"type": "object", "additionalProperties": False, "properties": properties}

    define("V1beta1InferenceServiceSpec")
    return {
        "$defs": definitions,
        "type": "object",
        "additionalProperties": False,
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "properties": {
            "apiVersion": {"const": "serving.kserve.io/v1beta1"},
            "kind": {"const": "InferenceService"},
            "metadata": {"$ref": "#/$defs/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"},
            "spec": {"$ref": "#/$defs/V1beta1InferenceServiceSpec"},
        },
    }


def attributes(path):
    """`openapi_types` and `attribute_map` of the class in a file."""
    found = {}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            if node.targets[0].id in ("openapi_types", "attribute_map"):
                found[node.targets[0].id] = ast.literal_eval(node.value)
    return found["openapi_types"], found["attribute_map"]

