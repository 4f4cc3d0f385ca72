"""A check for schemathesis: the server and the document agree, request by request, on what a legal request is (openapi_rules.py).
Loaded by schemathesis.toml.
"""
import json

import jsonschema_rs
import schemathesis
from openapi_rules import disagreement

validators = {}


def valid(document, name, value):
    if name not in validators:
        validators[name] = jsonschema_rs.validator_for({
            "$schema": "https://json-schema.org/draft/2020-12/schema", "$ref": "#/components/schemas/" + name,
            "components": document["components"]})
    return validators[name].is_valid(value)


@schemathesis.check
def the_document_and_the_server_agree(ctx, response, case):
    path = case.operation.path
    sent = response.request.body
    json_type = response.headers.get("content-type", [""])[0] == "application/json"
    if not path.startswith("/v1/guard") or response.request.method != "POST" or not sent or not json_type:
        return
    try:
        body = json.loads(sent)
    except ValueError:
        assert response.status_code in (400, 413, 415), "not JSON, and no 400"
        return
    if response.status_code in (411, 415, 431) or "bad_request" in response.text:
        return  # said of the head
    document = case.operation.schema.raw_schema
    wrong = disagreement(lambda name, value: valid(document, name, value), path, body, response.status_code,
                         json.loads(response.content))
    assert wrong is None, wrong
