"""Kills, ends and adds servers of a scaled set under load; `tests/scale/run` starts it.

Rankings and scores must be the same whoever computed them, so every answer is compared.
"""

import signal
import sys
import time
from pathlib import Path

from load import LARGE, Burst, Load, body, huge, once
from processes import Balancer, Names, Redis, Replica, end, free_port, get, wait_for

CLIENTS = 6


class Set:
    """What deploy/scale/docker-compose.scale.yml describes, as processes of this machine."""

    def __init__(self, server, work):
        self.server, self.work = server, work
        self.port = free_port("127.77.0.1")
        self.names, self.replicas, self.others = Names(), [], []
        self.redis = Redis(work)
        self.others.append(self.redis)
        for _ in range(3):
            self.start()
        for replica in self.replicas:
            self.announce(replica)
        self.balancer = Balancer(work, self.names, self.port)
        self.others.append(self.balancer)

    def start(self):
        replica = Replica(self.work, self.server, len(self.replicas) + 1, self.port, self.redis.port)
        self.replicas.append(replica)
        return replica

    def announce(self, replica):
        replica.wait_until_ready()
        self.names.addresses.append(replica.host)

    def forget(self, replica):
        self.names.addresses.remove(replica.host)

    def close(self):
        end(self.replicas + self.others)


def progress(load, patience=60):
    """Waits until each client has had a few more answers."""
    before = len(load.answers)
    wait_for("more answers come", lambda: len(load.answers) >= before + 4 * CLIENTS, patience)


def check(what, condition, *more):
    if not condition:
        raise AssertionError(" ".join([what, *map(str, more)]))
    print(f"ok: {what}", flush=True)


def nothing_lost(load, what):
    lost = load.lost()
    check(f"{what}: none of {len(load.answers)} requests lost", not lost, [vars(each) for each in lost[:5]])


def all_share_the_load(scaled, load):
    progress(load)
    for replica in scaled.replicas:
        wait_for(f"{replica.name} has work", lambda: replica.metric("reranker_request_seconds_count") > 0)
    nothing_lost(load, "three servers share the load")
    address = scaled.balancer.address
    check("the balancer says whether it can serve", get(scaled.balancer.status, "/ready")[0] == 200)
    check("no counters of one of many", get(address, "/metrics")[0] == 404)
    check("the rest passes", get(address, "/v1/models")[0] == 200)
    check("a body of 30 MB passes", once(address, huge(32)).status == 200)


def one_is_killed(scaled, load):
    """A server that holds requests for sure: it is stopped first, and the others get none."""
    victim, *others = scaled.replicas
    for other in others:
        scaled.balancer.tell(other, "drain")
    victim.signal(signal.SIGSTOP)
    small = Burst(scaled.balancer.address, [body(number) for number in range(4)])
    large = Burst(scaled.balancer.address, [body(number, LARGE) for number in range(2)])
    held = CLIENTS + 4 + 2
    wait_for(f"{held} requests wait at the victim", lambda: int(scaled.balancer.server(victim)["scur"]) == held)
    for other in others:
        scaled.balancer.tell(other, "ready")
    victim.kill()

    answers = small.wait()
    check("requests of the killed server were sent to another", [each.status for each in answers] == [200] * 4,
          [vars(each) for each in answers])
    right = [each.ranking == load.expected[number] for number, each in enumerate(answers)]
    check("their answers are right", all(right))
    log = wait_for("the log has them", lambda: has_all(scaled.balancer.lines(), answers))
    check("the log says so", all(log[each.identity][1] > 0 for each in answers), log)
    answers = large.wait()
    statuses = [each.status for each in answers]
    check("those beyond tune.bufsize are answered 502", statuses == [502, 502], statuses)
    check("the answer says what to do", all("send it again" in each.problem for each in answers))
    wait_for("the killed server is out", lambda: scaled.balancer.is_gone(victim))
    scaled.forget(victim)
    progress(load)
    nothing_lost(load, "one of three killed")


def has_all(lines, answers):
    return lines if all(each.identity in lines for each in answers) else None


def one_ends(scaled, load):
    ended = scaled.replicas[1]
    ended.signal(signal.SIGTERM)
    code = ended.process.wait(60)
    check("a server that is told to end ends well", code == 0 and "stopped" in ended.text(), code, ended.text())
    wait_for("the ended server is out", lambda: scaled.balancer.is_gone(ended))
    scaled.forget(ended)
    progress(load)
    nothing_lost(load, "one more told to end")


def one_is_added(scaled, load):
    added = scaled.start()
    scaled.announce(added)
    wait_for("the balancer has found it", lambda: scaled.balancer.is_up(added))
    wait_for("it has work", lambda: added.metric("reranker_request_seconds_count") > 0)
    progress(load)
    nothing_lost(load, "one added")
    return added


def scores_are_shared(scaled, added):
    """The new server takes from Redis what others computed for clients of the balancer."""
    first, other = body(1000), scaled.replicas[2]
    asked = once(other.address, first, cached=True)
    wait_for("the scores are in Redis", lambda: scaled.redis.entries() >= 8)
    again = once(added.address, first, cached=True)
    check("both answers are the same", asked.status == again.status == 200 and asked.ranking == again.ranking)
    known = added.metric('reranker_cache_pairs_total{source="redis"}')
    check("a new server knows the scores of the others", known == 8, known)


def redis_is_killed(scaled, load):
    scaled.redis.kill()
    answers = [once(scaled.balancer.address, body(number), cached=True) for number in range(8)]
    check("without Redis all is computed", [each.status for each in answers] == [200] * 8)
    progress(load)
    nothing_lost(load, "Redis killed")


def none_is_left(scaled, load):
    """Without any server the answer is 503 at once, and the next server is found."""
    load.stop()
    for replica in scaled.replicas[2:]:
        replica.kill()
        scaled.forget(replica)
    wait_for("the balancer is not ready", lambda: get(scaled.balancer.status, "/ready")[0] == 503)
    check("without any server the answer is 503", once(scaled.balancer.address, body(1)).status == 503)
    last = scaled.start()
    scaled.announce(last)
    wait_for("the next server is found", lambda: scaled.balancer.is_up(last))
    check("and answers", once(scaled.balancer.address, body(1)).status == 200)


def main(server, work):
    began = time.monotonic()
    scaled = Set(server, Path(work))
    load = None
    try:
        for replica in scaled.replicas:
            wait_for(f"the balancer has found {replica.name}", lambda: scaled.balancer.is_up(replica))
        expected = [once(scaled.replicas[0].address, body(number)).ranking for number in range(12)]
        load = Load(scaled.balancer.address, CLIENTS, expected)
        all_share_the_load(scaled, load)
        one_is_killed(scaled, load)
        one_ends(scaled, load)
        added = one_is_added(scaled, load)
        scores_are_shared(scaled, added)
        redis_is_killed(scaled, load)
        none_is_left(scaled, load)
        print(f"{len(load.answers)} requests under load, none lost, {time.monotonic() - began:.0f} s")
    except BaseException:
        for process in [*scaled.replicas, *scaled.others]:
            print(f"== {process.name}", *process.text().splitlines()[-15:], sep="\n", file=sys.stderr)
        raise
    finally:
        if load:
            load.ending.set()
        scaled.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
