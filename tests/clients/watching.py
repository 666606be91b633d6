"""Watches a Porter as Prometheus and Grafana would: fetches its figures as examples/prometheus.yml says, reads them with
Prometheus's own parser, and holds every expression of the examples against them. Says what is wrong, and exits with 1.

usage: watching.py EXAMPLES HOST:PORT TOKEN_FILE
"""

import json
import sys
import urllib.request
from pathlib import Path

import promql_parser
import yaml
from prometheus_client.parser import text_string_to_metric_families

# What Prometheus and Grafana add to a series themselves.
OWN_LABELS = {"instance", "job"}
OWN_SERIES = {"up"}
# What Grafana puts in place of its variables.
VARIABLES = {"$__rate_interval": "5m", "$instance": ".*"}


def fetch(config, address, token_file):
    """The figures, fetched as the example says, but from that address and with that token."""
    (job,) = config["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["127.0.0.1:9900"]}], "the example asks another port"
    assert set(job["authorization"]) == {"credentials_file"}, "more than a bearer token"
    assert job["authorization"]["credentials_file"].startswith("/")
    url = f"http://{address}{job['metrics_path']}"
    bearer = {"Authorization": "Bearer " + Path(token_file).read_text().strip()}
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(urllib.request.Request(url, headers=bearer), timeout=30) as answer:
        content_type = answer.headers["Content-Type"]
        assert content_type == "text/plain; version=0.0.4; charset=utf-8", content_type
        return answer.read().decode()


def series(text):
    """Each name with the label sets that it has."""
    known = {}
    for family in text_string_to_metric_families(text):
        assert family.samples and family.documentation, f"{family.name} has no sample or no help"
        assert family.type in ("counter", "gauge", "histogram"), f"{family.name} is {family.type}"
        for sample in family.samples:
            assert sample.name.startswith("porter_"), sample.name
            labels = known.setdefault(sample.name, [])
            assert sample.labels not in labels, f"{sample} is there twice"
            labels.append(sample.labels)
    return known


def selectors(node):
    """All vector selectors in an expression."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node
    for part in ("lhs", "rhs", "expr", "param", "vector_selector"):
        inner = getattr(node, part, None)
        if inner is not None and not isinstance(inner, (str, float)):
            yield from selectors(inner)
    for argument in getattr(node, "args", None) or []:
        yield from selectors(argument)


def check(where, expression, known):
    """Each name and label of an expression is one that the server exports; returns the names."""
    for variable, value in VARIABLES.items():
        expression = expression.replace(variable, value)
    assert "$" not in expression, f"{where}: an unknown variable in {expression}"
    found = list(selectors(promql_parser.parse(expression)))
    assert found, f"{where}: no series in {expression}"
    for selector in found:
        if selector.name in OWN_SERIES:
            continue
        assert selector.name in known, f"{where}: the server exports no {selector.name}"
        for matcher in selector.matchers.matchers:
            if matcher.name in OWN_LABELS:
                continue
            values = {labels.get(matcher.name) for labels in known[selector.name]} - {None}
            assert values, f"{where}: {selector.name} has no label {matcher.name}"
            wanted = matcher.value.split("|") if "Re" in str(matcher.op) else [matcher.value]
            assert values.issuperset(wanted), f"{where}: {matcher.name} of {selector.name} is never {wanted}, but {values}"
    return {selector.name for selector in found}


def check_alerts(alerts, known):
    used = set()
    for group in alerts["groups"]:
        for rule in group["rules"]:
            used |= check(rule["alert"], rule["expr"], known)
            assert rule["labels"]["severity"] in ("page", "ticket"), rule
            assert {"summary", "description"} == set(rule["annotations"]), rule
    return used


def check_board(board, known):
    used, places = set(), set()
    source = {"type": "prometheus", "uid": "${datasource}"}
    variables = {variable["name"]: variable for variable in board["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource" and variables["datasource"]["query"] == "prometheus"
    used |= check("instance", variables["instance"]["query"]["query"].removeprefix("label_values(").split(",")[0], known)
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids)), "two panels have one id"
    for panel in board["panels"]:
        place = panel["gridPos"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert x < 24 and (x, y) not in places, f"{panel['title']} lies on another panel"
                places.add((x, y))
        if panel["type"] == "row":
            continue
        assert panel["description"].endswith((".", "…")), f"{panel['title']}: what does it show?"
        assert panel["datasource"] == source, panel["title"]
        for target in panel["targets"]:
            assert target["datasource"] == source, panel["title"]
            used |= check(panel["title"], target["expr"], known)
    return used


def main(examples, address, token_file):
    examples = Path(examples)
    config = yaml.safe_load((examples / "prometheus.yml").read_text())
    assert config["rule_files"] == ["alerts.yml"]
    known = series(fetch(config, address, token_file))
    check_alerts(yaml.safe_load((examples / "alerts.yml").read_text()), known)
    shown = check_board(json.loads((examples / "grafana-board.json").read_text()), known)
    missing = set(known) - shown
    assert not missing, f"the board shows nothing of {sorted(missing)}"
    print(f"{len(known)} names, all on the board")


if __name__ == "__main__":
    main(*sys.argv[1:])
