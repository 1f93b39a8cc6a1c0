#include "qmp/deadlines.hpp"
#include "qmp/schema.hpp"
#include "tests/support/catch.hpp"
#include "tests/unit/qmp_scene.hpp"

namespace vmlaunch::qmp {
namespace {

using namespace tests;

/// A small schema in the form of QEMU 7.2's.
Schema schema() {
  return Schema(Json::parse(R"([
    {"name": "query-yank", "meta-type": "command", "arg-type": "0", "ret-type": "[1]", "allow-oob": true},
    {"name": "blockdev-add", "meta-type": "command", "arg-type": "2", "ret-type": "0",
     "features": ["unstable"]},
    {"name": "STOP", "meta-type": "event", "arg-type": "0", "features": ["deprecated"]},
    {"name": "0", "meta-type": "object", "members": []},
    {"name": "2", "meta-type": "object", "tag": "driver",
     "members": [{"name": "driver", "type": "5"},
                 {"name": "read-only", "type": "bool", "default": null, "features": ["deprecated"]}],
     "variants": [{"case": "file", "type": "3"}, {"case": "quorum", "type": "4"}]},
    {"name": "3", "meta-type": "object", "members": [{"name": "aio", "type": "6", "default": null},
                                                     {"name": "children", "type": "str"}]},
    {"name": "4", "meta-type": "object",
     "members": [{"name": "children", "type": "[7]", "features": ["unstable"]}]},
    {"name": "[7]", "meta-type": "array", "element-type": "7"},
    {"name": "7", "meta-type": "alternate", "members": [{"type": "2"}, {"type": "str"}]},
    {"name": "5", "meta-type": "enum", "values": ["file", "quorum"]},
    {"name": "6", "meta-type": "enum", "values": ["threads"]},
    {"name": "str", "meta-type": "builtin", "json-type": "string"}])"));
}

TEST_CASE("schema: commands, events and arguments are found by their names", "[qmp]") {
  const Schema known = schema();
  CHECK(known.has_command("blockdev-add"));
  CHECK_FALSE(known.has_command("STOP"));
  CHECK_FALSE(known.has_command("2"));
  CHECK(known.has_event("STOP"));
  CHECK_FALSE(known.has_event("blockdev-add"));
  for (const char* path : {"driver",
                           "read-only",
                           "aio",
                           "children",
                           "children/driver",
                           "children/children/children/aio"}) {
    INFO(path);
    CHECK(known.has_arg("blockdev-add", path));
  }
  for (const char* path : {"aio/x", "nothing", "children/nothing", "driver/aio"}) {
    INFO(path);
    CHECK_FALSE(known.has_arg("blockdev-add", path));
  }
  CHECK_FALSE(known.has_arg("query-yank", "driver"));
  CHECK_FALSE(known.has_arg("no-such-command", "driver"));
}

TEST_CASE("schema: features and the out-of-band band are told", "[qmp]") {
  const Schema known = schema();
  CHECK(known.allows_oob("query-yank"));
  CHECK_FALSE(known.allows_oob("blockdev-add"));
  CHECK(known.has_feature("blockdev-add", "unstable"));
  CHECK_FALSE(known.has_feature("blockdev-add", "deprecated"));
  CHECK(known.has_feature("blockdev-add/read-only", "deprecated"));
  CHECK(known.has_feature("blockdev-add/children/read-only", "deprecated"));
  CHECK_FALSE(known.has_feature("blockdev-add/aio", "unstable"));
  CHECK(known.has_feature("STOP", "deprecated"));
  CHECK_FALSE(known.has_feature("nothing", "deprecated"));
  CHECK_FALSE(known.has_feature("blockdev-add/nothing", "deprecated"));
}

TEST_CASE("schema: what is none is refused, and a ring of types ends", "[qmp]") {
  for (const char* text : {"{}",
                           "null",
                           "[1]",
                           R"([{"name": 1}])",
                           R"([{"meta-type": []}])",
                           R"([{"name": "a", "meta-type": "object", "members": [{"name": 1}]}])",
                           R"([{"name": "a", "meta-type": "object", "members": [1]}])",
                           R"([{"name": "a", "meta-type": "object", "members": "b"}])",
                           R"([{"name": "a", "meta-type": "object", "variants": [[]]}])",
                           R"([{"name": "a", "meta-type": "command", "features": [1]}])"}) {
    INFO(text);
    CHECK_THROWS_AS(Schema(Json::parse(text)), Error);
  }
  const Schema ring(Json::parse(R"([
    {"name": "c", "meta-type": "command", "arg-type": "a"},
    {"name": "a", "meta-type": "object", "variants": [{"type": "a"}, {"type": "b"}]},
    {"name": "b", "meta-type": "array", "element-type": "a"}])"));
  CHECK_FALSE(ring.has_arg("c", "x"));
}

TEST_CASE("schema: a feature is found in whichever branch of a union bears it", "[qmp]") {
  for (const bool first : {true, false}) {
    INFO(first);
    const std::string features = R"(, "features": ["deprecated"])";
    const Schema known(Json::parse(R"([
      {"name": "c", "meta-type": "command", "arg-type": "u"},
      {"name": "u", "meta-type": "object", "variants": [{"type": "a"}, {"type": "b"}]},
      {"name": "a", "meta-type": "object", "members": [{"name": "x", "type": "str")" +
                                   (first ? features : "") + R"(}]},
      {"name": "b", "meta-type": "object", "members": [{"name": "x", "type": "str")" +
                                   (first ? "" : features) + R"(}]}])"));
    CHECK(known.has_feature("c/x", "deprecated"));
    CHECK_FALSE(known.has_feature("c/x", "unstable"));
  }
}

/// A union "0" of the same type many times, which is one too, and so on; the last has the member.
Schema entangled(std::size_t levels, std::size_t branches) {
  Json entries = Json::array();
  entries.push_back({{"name", "c"}, {"meta-type", "command"}, {"arg-type", "0"}});
  for (std::size_t level = 0; level < levels; ++level) {
    const Json next = {{"type", std::to_string(level + 1)}};
    entries.push_back({{"name", std::to_string(level)},
                       {"meta-type", "object"},
                       {"variants", std::vector<Json>(branches, next)}});
  }
  entries.push_back({{"name", std::to_string(levels)},
                     {"meta-type", "object"},
                     {"members", {{{"name", "x"}, {"type", "0"}}}}});
  return Schema(entries);
}

TEST_CASE("schema: types that lead to each other by many ways, or far, cost no more", "[qmp]") {
  const auto begin = Clock::now();
  const Schema wide = entangled(16, 8);
  CHECK(wide.has_arg("c", "x/x/x"));
  CHECK_FALSE(wide.has_arg("c", "x/x/y"));
  CHECK(Clock::now() - begin < 5s);
  CHECK(entangled(20000, 1).has_arg("c", "x/x"));
}

TEST_CASE("deadlines: what takes long by its nature has long, and length adds to it", "[qmp]") {
  CHECK(usual_deadline("query-status") == 5s);
  CHECK(usual_deadline("device_del") == 1min);
  CHECK(usual_deadline("block-job-cancel") == 10min);
  CHECK(usual_deadline("snapshot-save") == 1h);
  CHECK(usual_deadline("") == 5s);
  CHECK(deadline_of_bytes(0) == 0ms);
  CHECK(deadline_of_bytes(1000000) == 3s);
}

}  // namespace
}  // namespace vmlaunch::qmp
