"""Has a Prometheus of its own scrape a server under load, and asks it all that the dashboard asks.

    scrape.py KIT WORK HOST:PORT PID REDIS [PICTURE]

KIT is deploy/monitoring, WORK a directory for data, REDIS the process of the server's Redis, which
is killed in between so that its errors are seen, and PID the server's own, which is killed at the
end: the alert of that has to reach Alertmanager. With PICTURE, the series of every panel are written
there as JSON, for a look at them.
"""
import http.client
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from pathlib import Path

LOAD_SECONDS = 20
PATIENCE = 90
# Without a GPU these have no data.
ONLY_WITH_GPU = re.compile(r"reranker_gpu_")
# What the load and the missing Redis may well set off, and the end of the server must.
CAUSED = {"RerankerSlow", "RerankerRefusing", "RerankerQueueNearlyFull", "RerankerCacheErrors", "RerankerDown"}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def get(address, path, **query):
    url = f"http://127.0.0.1:{address}{path}?{urllib.parse.urlencode(query)}"
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.load(answer)


def until(what, ask):
    """What `ask` returns once it is true; errors of a program that starts do not count."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            found = ask()
        except (OSError, http.client.HTTPException, ValueError):
            found = None
        if found:
            return found
        time.sleep(0.2)
    sys.exit(f"not within {PATIENCE} s: {what}")


def start(command, work, name):
    log = open(work / f"{name}.log", "w")
    return subprocess.Popen([str(part) for part in command], stdout=log, stderr=subprocess.STDOUT)


def configuration(kit, work, server, alertmanager):
    """The kit's own files, but for where everybody is and how long an alert waits."""
    text = (kit / "prometheus.yml").read_text()
    at = text.index("    dns_sd_configs:")
    text = text[:at] + (
        f"    scheme: https\n    tls_config: {{insecure_skip_verify: true}}\n"
        f"    static_configs: [{{targets: ['{server}']}}]\n")
    text = text.replace("alertmanager:9093", f"127.0.0.1:{alertmanager}").replace("15s", "1s")
    (work / "prometheus.yml").write_text(text)
    rules = (kit / "alerts.yml").read_text()
    (work / "alerts.yml").write_text(re.sub(r"for: \w+", "for: 2s", rules))


def load(server, stop):
    """Requests of every kind, one after the other, some of them again and again."""
    context = ssl._create_unverified_context()
    number = 0
    while not stop.is_set():
        number += 1
        # Every other request is one of three; some are large enough to fill the queue, some are no request.
        name = number % 3 if number % 2 else f"{threading.get_ident()} {number}"
        documents = [f"{name} {i} people live in town {i}" for i in range(60 if number % 4 == 0 else 8)]
        body = "{" if number % 11 == 0 else json.dumps({"query": f"town {name}", "documents": documents})
        try:
            connection = http.client.HTTPSConnection(server, context=context, timeout=60)
            connection.request("POST", "/v1/rerank", body, {"Content-Type": "application/json"})
            connection.getresponse().read()
            connection.close()
        except OSError:
            return  # it was killed


def expressions(kit):
    """Every panel's title and expression, with the dashboard's variables filled in."""
    dashboard = json.loads((kit / "grafana/dashboards/reranker.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            filled = target["expr"].replace("$job", "reranker").replace("$instance", ".*")
            yield panel["title"], target, filled.replace("$__rate_interval", "10s")


def drawn(prometheus, expression, since):
    """The series that a panel draws, from a time until now."""
    query = {"query": expression, "start": since, "end": time.time(), "step": 1}
    return get(prometheus, "/api/v1/query_range", **query)["data"]["result"]


def check_dashboard(kit, prometheus, since):
    missing = []
    for title, _, expression in expressions(kit):
        series = drawn(prometheus, expression, since)
        # A quantile of nothing is NaN, which draws nothing.
        numbers = [value for line in series for _, value in line["values"] if value != "NaN"]
        if bool(numbers) == bool(ONLY_WITH_GPU.search(expression)):
            missing.append(f"{title}: {expression}: {len(series)} series, {len(numbers)} numbers")
    if missing:
        sys.exit("panels without data (or with data of a GPU that is not there):\n" + "\n".join(missing))
    asked = [expression for _, _, expression in expressions(kit) if not ONLY_WITH_GPU.search(expression)]
    print(f"every one of {len(asked)} expressions of the dashboard that need no GPU has data")


def check_alerts(prometheus):
    """Alerts can be asked for: those that do not fire have no data, so their sides are asked."""
    groups = get(prometheus, "/api/v1/rules")["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    bad = [rule["name"] for rule in rules if rule["health"] != "ok"]
    if bad or not rules:
        sys.exit(f"rules that cannot be evaluated: {bad} of {len(rules)}")
    known = set(get(prometheus, "/api/v1/label/__name__/values")["data"])
    for rule in rules:
        for name in re.findall(r"reranker_\w+", rule["query"]):
            if name not in known and not ONLY_WITH_GPU.match(name):
                sys.exit(f"{rule['name']} asks for {name}, which is no metric of the server")
    print(f"every metric of {len(rules)} alerts is there")


def picture(kit, prometheus, since, path):
    panels = {}
    for title, target, expression in expressions(kit):
        panels.setdefault(title, []).append([target["legendFormat"], drawn(prometheus, expression, since)])
    Path(path).write_text(json.dumps(panels))


def main():
    kit, work, server = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    process, redis = int(sys.argv[4]), int(sys.argv[5])
    prometheus, alertmanager = free_port(), free_port()
    configuration(kit, work, server, alertmanager)
    shutil.copy(kit / "alertmanager.yml", work / "alertmanager.yml")
    programs = [
        start(["prometheus", f"--config.file={work}/prometheus.yml", f"--storage.tsdb.path={work}/tsdb",
               f"--web.listen-address=127.0.0.1:{prometheus}"], work, "prometheus"),
        start(["prometheus-alertmanager", f"--config.file={work}/alertmanager.yml",
               f"--storage.path={work}/alertmanager", "--cluster.listen-address=",
               f"--web.listen-address=127.0.0.1:{alertmanager}"], work, "alertmanager"),
    ]
    try:
        until("Prometheus scrapes the server", lambda: [
            t for t in get(prometheus, "/api/v1/targets")["data"]["activeTargets"] if t["health"] == "up"])
        has = lambda query: get(prometheus, "/api/v1/query", query=query)["data"]["result"]
        until("the server is connected to Redis", lambda: has("reranker_cache_redis_connected > 0"))
        stop = threading.Event()
        began = time.time()
        clients = [threading.Thread(target=load, args=(server, stop), daemon=True) for _ in range(12)]
        for client in clients:
            client.start()
        until("requests wait for Redis", lambda: has("rate(reranker_cache_redis_seconds_count[10s]) > 0"))
        os.kill(redis, signal.SIGKILL)
        # The first error makes the series, the second is a rate.
        until("Redis' errors and refusals are counted", lambda: all(has(query) for query in (
            "rate(reranker_cache_errors_total[30s]) > 0", 'reranker_refused_total{reason="overloaded"} > 0')))
        time.sleep(LOAD_SECONDS)
        check_dashboard(kit, prometheus, began)
        check_alerts(prometheus)
        if sys.argv[6:]:
            picture(kit, prometheus, began, sys.argv[6])
        firing = lambda: {alert["labels"]["alertname"] for alert in get(alertmanager, "/api/v2/alerts")}
        if "RerankerDown" in firing():
            sys.exit("RerankerDown fires although the server is there")
        until("the alert of what is refused reaches Alertmanager", lambda: "RerankerRefusing" in firing())
        os.kill(process, signal.SIGKILL)
        until("the alert reaches Alertmanager", lambda: "RerankerDown" in firing())
        if firing() - CAUSED:
            sys.exit(f"alerts without a cause: {firing() - CAUSED}")
        print(f"the alert of a server that is gone reaches Alertmanager, among {sorted(firing())}")
        stop.set()
    finally:
        for program in programs:
            program.terminate()
        for program in programs:
            program.wait()


main()
