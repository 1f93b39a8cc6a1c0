#!/usr/bin/python3
"""The schema of configs against the examples, the broken configs, and what is written about the keys."""

import json
import re
import sys
import unittest
from pathlib import Path

import jsonschema

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"
DATA = ROOT / "tests" / "data"

# What no schema can see, by the reason; "*" stands for any text.
INVISIBLE = {
    "it is not JSON, so there is nothing to validate": ["syntax-*"],
    "a JSON object has each key once": ["duplicate-*"],
    "the limit is on the product of three numbers": [
        "cpu-too-many", "cpu-pin-wrong-number", "cpu-pin-map-wrong-number"],
    "a whole number is a multiple of 1M only by arithmetic, and has any number of digits": [
        "memory-not-whole", "memory-zero", "memory-overflow", "memory-overflow-unit",
        "memory-hugepages-*"],
    "how much of one thing another needs": [
        "memory-nodes-beyond-pages", "memory-without-hugepages", "cpu-isolate-without-pin"],
    "paths are equal only once they are resolved": ["disk-twice", "pci-twice"],
    "hexadecimal digits are the same in both cases": ["usb-twice"],
    "one NIC's value is compared with another's": ["network-mac-twice", "network-tap-twice"],
    "two texts share a part": ["network-forward-twice"],
    "2.0 and 2 are the same number": ["type-run-as-fraction"],
    "the file's name is not part of the config": ["name of the file"],
}


def strip_comments(text):
    """JSON with its comments blanked out; what stands in a string is left alone."""
    token = re.compile(r'"(?:[^"\\\n]|\\.)*"|//[^\n]*|/\*.*?\*/', re.DOTALL)
    return token.sub(lambda found: found[0] if found[0].startswith('"') else " ", text)


def read(path):
    return json.loads(strip_comments(path.read_text(encoding="utf-8-sig")))


def as_python(schema):
    """A schema's patterns are ECMAScript's, whose $ matches at the end only; in Python that is \\Z."""
    if isinstance(schema, list):
        return [as_python(part) for part in schema]
    if isinstance(schema, dict):
        return {key: part.replace("$", r"\Z") if key == "pattern" and isinstance(part, str) else as_python(part)
                for key, part in schema.items()}
    return schema


SCHEMA = json.loads((CONFIGS / "vmlaunch.schema.json").read_text(encoding="utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(as_python(SCHEMA))


def schema_keys(schema, prefix=""):
    """Every key with what the schema says of it: "disks[].path" and so on."""
    for name, part in schema.get("properties", {}).items():
        if isinstance(part, dict) and "description" in part:
            yield prefix + name, part, name in schema.get("required", [])
            yield from schema_keys(part, prefix + name + ".")
    for part in schema.get("anyOf", []):
        yield from schema_keys(part, prefix)
    if "items" in schema:
        yield from schema_keys(schema["items"], prefix.removesuffix(".") + "[].")


def config_keys(value, prefix=""):
    if isinstance(value, dict):
        for name, part in value.items():
            yield prefix + name
            yield from config_keys(part, prefix + name + ".")
    elif isinstance(value, list):
        for part in value:
            yield from config_keys(part, prefix.removesuffix(".") + "[].")


def examples():
    return sorted(path for path in CONFIGS.glob("*.json") if not path.name.endswith(".schema.json"))


def objects(schema):
    if isinstance(schema, dict):
        if schema.get("type") == "object":
            yield schema
        for part in schema.values():
            yield from objects(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from objects(part)


FULL = sorted(DATA.glob("full*.json"))


class SchemaTest(unittest.TestCase):
    def test_the_schema_is_valid_and_closed(self):
        jsonschema.Draft202012Validator.check_schema(SCHEMA)
        for schema in objects(SCHEMA):
            self.assertIs(schema.get("additionalProperties"), False, schema.get("description"))

    def test_every_key_has_a_description_and_a_default(self):
        for key, schema, required in schema_keys(SCHEMA):
            with self.subTest(key):
                self.assertTrue("default" in schema or "Default: " in schema["description"])
                if "default" in schema:
                    self.assertTrue(as_validator(schema).is_valid(schema["default"]))
                self.assertEqual(required, schema["description"].endswith("Default: none; needed."))

    def test_every_example_is_valid(self):
        self.assertTrue(examples())
        for path in examples() + FULL:
            with self.subTest(path.name):
                VALIDATOR.validate(read(path))

    def test_every_effective_config_is_valid(self):
        for path in sorted((DATA / "golden").glob("*.effective.json")):
            with self.subTest(path.name):
                VALIDATOR.validate(read(path))

    def test_the_full_config_has_every_key_and_no_other(self):
        expected = sorted(key for key, _, _ in schema_keys(SCHEMA))
        self.assertEqual(expected, sorted({key for path in FULL for key in config_keys(read(path))}))

    def test_the_reference_has_every_key_and_no_other(self):
        text = (CONFIGS / "README.md").read_text(encoding="utf-8")
        keys = text[text.index("\n## Keys\n"):text.index("\n## Who QEMU runs as\n")]
        rows = re.findall(r"^\| `([^`]+)` \|", keys, re.MULTILINE)
        self.assertEqual(sorted(key for key, _, _ in schema_keys(SCHEMA)), sorted(rows))

    def test_the_reference_says_the_defaults(self):
        text = (CONFIGS / "README.md").read_text(encoding="utf-8")
        for key, schema, _ in schema_keys(SCHEMA):
            default = schema.get("default")
            if default in (None, {}, ""):
                continue
            with self.subTest(key):
                row = re.search(r"^\| `" + re.escape(key) + r"` \|[^|]*\| ([^|]*) \|", text, re.MULTILINE)
                self.assertEqual(json.dumps(default), row[1].strip("`"))

    def test_the_reference_names_every_example(self):
        text = (CONFIGS / "README.md").read_text(encoding="utf-8")
        self.assertEqual([path.name for path in examples()],
                         sorted(re.findall(r"^\| \[([^]]+)\]", text, re.MULTILINE)))

    def test_the_manual_page_has_every_key_and_no_other(self):
        text = (ROOT / "packaging" / "man" / "vmlaunch.json.5").read_text(encoding="utf-8")
        heads = " ".join(re.findall(r"^\.BR (.*)$", text, re.MULTILINE))
        named = set(re.findall(r"(?<![\w.$\[\]])[$a-z][a-z_.\[\]$]*(?= |$)", re.sub(r'"[^"]*"', "", heads)))
        expected = {key for key, schema, _ in schema_keys(SCHEMA)
                    if schema.get("type") != "object" or key == "network[].user"}
        self.assertEqual(expected, named - {"vmlaunch", "vmlaunch.json"})

    def test_the_schema_takes_the_options_that_the_reference_lists_and_no_others(self):
        text = (CONFIGS / "README.md").read_text(encoding="utf-8")
        row = re.search(r"^\| `qemu.extra_args` .*$", text, re.MULTILINE)[0]
        listed = re.findall(r"`-([A-Za-z_-]+)`", row)
        self.assertEqual(["-" + option for option in listed],
                         read(DATA / "extra-args.json")["qemu"]["extra_args"])
        manual = (ROOT / "packaging" / "man" / "vmlaunch.json.5").read_text(encoding="utf-8")
        self.assertIn(", ".join("\\-" + option.replace("-", "\\-") for option in listed), manual)
        for option in listed:
            for form in ("-" + option, "--" + option, option):
                self.assertTrue(VALIDATOR.is_valid({"qemu": {"extra_args": [form]}}), form)
            for form in ("-" + option + "x", "---" + option, "-" + option + "=x"):
                self.assertFalse(VALIDATOR.is_valid({"qemu": {"extra_args": [form]}}), form)
        for option in read(DATA / "broken" / "extra-args-own.json")["qemu"]["extra_args"]:
            self.assertFalse(VALIDATOR.is_valid({"qemu": {"extra_args": [option]}}), option)


def as_validator(schema):
    return jsonschema.Draft202012Validator({"$defs": SCHEMA["$defs"], **as_python(schema)})


def is_invisible(name):
    return any(re.fullmatch(pattern.replace("*", ".*"), name)
               for patterns in INVISIBLE.values() for pattern in patterns)


class BrokenConfigTest(unittest.TestCase):
    def test_the_schema_refuses_each_broken_config_that_it_can_see(self):
        for path in sorted((DATA / "broken").glob("*.json")):
            with self.subTest(path.name):
                if path.stem.startswith(("syntax-", "duplicate-")):
                    continue
                self.assertEqual(is_invisible(path.stem), VALIDATOR.is_valid(read(path)),
                                 "what the schema sees and the list of what it cannot see disagree")

    def test_every_reason_has_a_broken_config(self):
        names = [path.stem for path in (DATA / "broken").glob("*.json")]
        for patterns in INVISIBLE.values():
            for pattern in patterns:
                with self.subTest(pattern):
                    self.assertTrue(any(re.fullmatch(pattern.replace("*", ".*"), name) for name in names))


class StripCommentsTest(unittest.TestCase):
    def test_strings_are_left_alone(self):
        self.assertEqual(["//a", "/*b*/", '"//c', "\\"],
                         json.loads(strip_comments(r'["//a", /* " */ "/*b*/", "\"//c", "\\" /**/] // "d')))


if __name__ == "__main__":
    sys.exit(unittest.main())
