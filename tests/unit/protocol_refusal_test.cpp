#include <csignal>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "launcher/guardian/protocol.hpp"
#include "sandbox/policy.hpp"
#include "tests/unit/protocol_text.hpp"

namespace vmlaunch::launcher::guardian {
namespace {

using namespace tests;

TEST_CASE("protocol: what is not an object is refused", "[guardian]") {
  for (const std::string& bytes : {std::string(),
                                   std::string("{"),
                                   std::string("}"),
                                   std::string("null"),
                                   std::string("7"),
                                   std::string("[]"),
                                   std::string("[{\"do\":\"status\"}]"),
                                   std::string("\"status\""),
                                   std::string("{\"do\":\"status\"} {}"),
                                   std::string("{\"do\":\"status\",}"),
                                   std::string("{'do':'status'}"),
                                   std::string("{\"do\":\"status\"} // no"),
                                   std::string("{\"do\":\"status\"}\0", 16),
                                   std::string("\xff\xfe"),
                                   std::string("{\"do\":\"st\xff\"}")}) {
    INFO(bytes);
    CHECK(complaint(bytes) == "a packet is not a JSON object");
    CHECK(complaint_of_reply(bytes) == "a packet is not a JSON object");
  }
}

TEST_CASE("protocol: an unknown message is refused", "[guardian]") {
  CHECK(complaint(Json{{"do", "exec"}}) == "an unknown request");
  CHECK(complaint(Json{{"do", ""}}) == "an unknown request");
  CHECK(complaint(Json{{"do", "Spawn"}}) == "an unknown request");
  CHECK(complaint(Json{{"is", "spawned"}, {"pid", 1}}) == "\"do\" is missing");
  CHECK(complaint(Json{{"do", 7}}) == "\"do\" has the wrong type or range");
  CHECK(complaint(Json::object()) == "\"do\" is missing");
  CHECK(complaint_of_reply("{\"is\":\"happy\"}") == "an unknown reply");
  CHECK(complaint_of_reply("{\"do\":\"status\"}") == "\"is\" is missing");
  CHECK(complaint_of_reply("{\"is\":null}") == "\"is\" has the wrong type or range");
}

TEST_CASE("protocol: only SIGTERM and SIGKILL may be asked for", "[guardian]") {
  for (int signal = 1; signal <= 64; ++signal) {
    INFO(signal);
    CHECK(complaint(Json{{"do", "signal"}, {"signal", signal}}) ==
          (signal == SIGTERM || signal == SIGKILL ? "nothing"
                                                  : "only SIGTERM and SIGKILL may be sent"));
  }
  for (const Json& signal : {Json(0), Json(-9), Json(65), Json(9.0), Json("9"), Json(true)}) {
    INFO(signal);
    CHECK(complaint(Json{{"do", "signal"}, {"signal", signal}}) ==
          "\"signal\" has the wrong type or range");
  }
}

/// Calls `visit` with the pointer of every field of every object in `json`.
void for_each_field(const Json& json,
                    const std::string& pointer,
                    const std::function<void(const std::string&, const std::string&)>& visit) {
  if (json.is_object()) {
    for (const auto& [key, value] : json.items()) {
      visit(pointer, key);
      for_each_field(value, pointer + "/" + key, visit);
    }
  } else if (json.is_array()) {
    for (std::size_t i = 0; i < json.size(); ++i) {
      for_each_field(json[i], pointer + "/" + std::to_string(i), visit);
    }
  }
}

TEST_CASE("protocol: a plan that lacks any field is refused", "[guardian]") {
  const Json whole = seal_json();
  std::size_t fields = 0;
  for_each_field(whole, "", [&](const std::string& object, const std::string& key) {
    INFO(object << "/" << key);
    Json json = whole;
    json[Json::json_pointer(object)].erase(key);
    CHECK(complaint(json) == "\"" + key + "\" is missing");
    ++fields;
  });
  CHECK(fields == 11 + 4 + (3 + 2 + 2 + 4 + 4 + 3 * 3) + 3 * 9 + 9 + 5 + 3 + 3 + 5);
}

TEST_CASE("protocol: a plan with a field too many anywhere is refused", "[guardian]") {
  for (const char* object : {"",
                             "/steps/0",
                             "/steps/1",
                             "/steps/4",
                             "/files/0",
                             "/files/2",
                             "/qemu",
                             "/qemu/calls",
                             "/deadlines"}) {
    INFO(object);
    Json json = seal_json();
    json[Json::json_pointer(object)]["extra"] = 1;
    CHECK(complaint(json) == "a field too many");
  }
}

TEST_CASE("protocol: a placement that no plan has is refused", "[guardian]") {
  CHECK(complaint(seal_with("/placement/vcpus", {"", "3"})) == "not a set of CPUs");
  CHECK(complaint(seal_with("/placement/vcpus", {"2", "3-"})) == "not a set of CPUs");
  CHECK(complaint(seal_with("/placement/rest", "")) == "not a set of CPUs");
  for (const auto& [pointer, value] :
       {std::pair("/placement/vcpus", Json::array()),
        std::pair("/placement/priority", Json(0)),
        std::pair("/placement/policy", Json(0)),
        std::pair("/placement/vcpus", Json(std::vector<std::string>(256, "1")))}) {
    INFO(pointer << " " << value);
    CHECK(complaint(seal_with(pointer, value)) == "a placement that no plan has");
  }
  for (const auto& [pointer, value] :
       {std::pair("/placement/priority", Json(100)), std::pair("/placement/policy", Json(3))}) {
    CHECK(complaint(seal_with(pointer, value)).ends_with("has the wrong type or range"));
  }
  Json more = seal_json();
  more["placement"]["from"] = "start";
  CHECK(complaint(more) == "a field too many");
}

TEST_CASE("protocol: threads are numbers", "[guardian]") {
  const auto asked = [](const Json& vcpus) {
    return complaint(Json{{"do", "schedule"}, {"vcpus", vcpus}, {"realtime", true}});
  };
  CHECK(asked({17, 18}) == "nothing");
  for (const Json& wrong : {Json::array({0}),
                            Json::array({-1}),
                            Json::array({2147483648}),
                            Json::array({"17"}),
                            Json(17)}) {
    INFO(wrong);
    CHECK(asked(wrong) == "\"vcpus\" has the wrong type or range");
  }
  CHECK(complaint(Json{{"do", "schedule"}, {"vcpus", {17}}}) == "\"realtime\" is missing");
}

TEST_CASE("protocol: a small request with a field too many or too few is refused", "[guardian]") {
  for (const char* what : {"spawn", "status", "usb-changed", "place-interrupts"}) {
    INFO(what);
    CHECK(complaint(Json{{"do", what}, {"pid", 1}}) == "a field too many");
  }
  CHECK(complaint(Json{{"do", "undo"}}) == "\"keep_files\" is missing");
  CHECK(complaint(Json{{"do", "undo"}, {"keep_files", true}, {"now", true}}) == "a field too many");
  CHECK(complaint(Json{{"do", "filter-phase"}}) == "\"open\" is missing");
  CHECK(complaint(Json{{"do", "filter-phase"}, {"open", true}, {"for", 60}}) == "a field too many");
  CHECK(complaint(Json{{"do", "apply"}}) == "\"step\" is missing");
  CHECK(complaint(Json{{"do", "apply"}, {"step", 1025}}) == "\"step\" has the wrong type or range");
  CHECK(complaint(Json{{"do", "apply"}, {"step", 0}, {"twice", 1}}) == "a field too many");
  CHECK(complaint(Json{{"do", "signal"}}) == "\"signal\" is missing");
  CHECK(complaint(Json{{"do", "signal"}, {"signal", 9}, {"pid", 1}}) == "a field too many");
}

TEST_CASE("protocol: a plan's field of another type is refused", "[guardian]") {
  const Json whole = seal_json();
  const std::vector<Json> others = {
      nullptr, true, 7, -7, 7.5, "text", Json::array(), Json::object(), Json::array({nullptr})};
  for_each_field(whole, "", [&](const std::string& object, const std::string& key) {
    const std::string pointer = object + "/" + key;
    const Json& right = whole[Json::json_pointer(pointer)];
    for (const Json& other : others) {
      const bool same = other.type() == right.type() ||
                        (right.is_number() && other.is_number_integer() && other >= 0);
      const bool list = right.is_array() && other == Json::array();
      const bool no_uid = (key == "uid" || key == "memlock" || key == "dev") && other.is_null();
      if ((same && !(right.is_array() || right.is_object())) || list || no_uid || key == "do") {
        continue;
      }
      INFO(pointer << " = " << other);
      CHECK(complaint(seal_with(pointer.c_str(), other)) != "nothing");
    }
  });
}

TEST_CASE("protocol: a number out of its range is refused", "[guardian]") {
  struct Row {
    const char* pointer;
    std::vector<Json> inside;
    std::vector<Json> outside;
  };
  const std::uint64_t hours = 3600000;
  for (const Row& row : {
           Row{"/files/0/fd", {10, 12, 254}, {0, 1, 2, 3, 4, 9, 256, 4294967306U, -10, 10.0}},
           Row{"/files/0/access", {0, 1, 2}, {3, -1, 256, 4294967296U}},
           Row{"/files/0/create", {0, 1, 2}, {3, -1, 256, 4294967296U}},
           Row{"/qemu/uid", {0, 1000, 4294967294U}, {4294967295U, 4294967296U, -1}},
           Row{"/qemu/calls/mode", {0, 1, 2}, {3, -1, 256}},
           Row{"/qemu/memlock", {0, 9223372036854775807}, {9223372036854775808U, -1, 1.5}},
           Row{"/deadlines/powerdown", {0, 1000 * hours}, {1000 * hours + 1, -1, 1.5}},
           Row{"/deadlines/powerdown_again", {0, 1000 * hours}, {1000 * hours + 1, -1}},
           Row{"/deadlines/quit", {0, 1000 * hours}, {1000 * hours + 1, -1}},
           Row{"/deadlines/terminate", {0, 1000 * hours}, {1000 * hours + 1, -1}},
           Row{"/deadlines/kill", {0, 1000 * hours}, {1000 * hours + 1, 18446744073709551615U}},
       }) {
    const std::string pointer = row.pointer;
    for (const Json& value : row.inside) {
      INFO(pointer << " = " << value);
      CHECK(complaint(seal_with(row.pointer, value)) == "nothing");
    }
    for (const Json& value : row.outside) {
      INFO(pointer << " = " << value);
      CHECK(complaint(seal_with(row.pointer, value)).ends_with("has the wrong type or range"));
    }
  }
}

TEST_CASE("protocol: a step of a form that no plan has is refused", "[guardian]") {
  struct Row {
    const char* pointer;
    Json value;
    const char* complaint;
  };
  const char* address = "not a PCI address";
  const char* driver = "not a driver's name";
  for (const Row& row : {
           Row{"/steps/0/kind", "make-coffee", "an unknown step"},
           Row{"/steps/0/vm", "", "not a VM's name"},
           Row{"/steps/0/vm", "../../etc", "not a VM's name"},
           Row{"/steps/2/device", "04:00.1", address},
           Row{"/steps/2/device", "0000:04:00.8", address},
           Row{"/steps/2/device", "0000:04:00.1/../../x", address},
           Row{"/steps/2/device", "0000:AB:00.1", address},
           Row{"/steps/4/device", "", address},
           Row{"/steps/3/from", "../vfio-pci", driver},
           Row{"/steps/4/from", "..", driver},
           Row{"/steps/4/from", " a", driver},
           Row{"/steps/4/from", "a/b", driver},
           Row{"/steps/4/from", "a\nb", driver},
           Row{"/steps/0/vm", "win11", "a step that is no part of this plan"},
           Row{"/steps/0",
               Json{{"kind", "start-qemu"}, {"cgroup", true}},
               "a step that is no part of this plan"},
           Row{"/name", "../win10", "not a VM's name"},
           Row{"/name", "", "not a VM's name"},
       }) {
    INFO(row.pointer << " = " << row.value);
    CHECK(complaint(seal_with(row.pointer, row.value)) == row.complaint);
  }
}

TEST_CASE("protocol: a node is KVM's, vfio's, or one of a PCI or USB device", "[guardian]") {
  for (const char* node : {"kvm", "vfio/vfio"}) {
    INFO(node);
    CHECK(complaint(seal_with("/qemu/dev/nodes/0", node)) == "nothing");
  }
  for (const char* node : {"", "sda", "/kvm", "vfio/", "vfio/7", "vfio/../mem", "../dev/mem"}) {
    INFO(node);
    CHECK(complaint(seal_with("/qemu/dev/nodes/0", node)) == "a node that no plan has");
  }
  for (const char* device : {"", "7", "../0000:01:00.0", "0000:01:00.0/"}) {
    INFO(device);
    CHECK(complaint(seal_with("/qemu/dev/devices/0", device)) == "not a PCI address");
  }
  for (const char* rule : {"046d:c051", "1-2.3", "1:4"}) {
    INFO(rule);
    CHECK(complaint(seal_with("/qemu/dev/usb/0", rule)) == "nothing");
  }
  for (const char* pointer : {"/steps/2", "/steps/5"}) {
    INFO(pointer);
    CHECK(complaint(seal_with(pointer, steps::to_json(steps::release_console()))) ==
          "a device of QEMU's that no step takes");
  }
  const std::string no_rule = "not a rule about USB devices, or too many";
  for (const char* rule : {"", "usb1", "1-0", "bus/usb/001/004", "../001/004"}) {
    INFO(rule);
    CHECK(complaint(seal_with("/qemu/dev/usb/0", rule)) == no_rule);
  }
}

TEST_CASE("protocol: what QEMU sees has the name that the host gives it", "[guardian]") {
  for (const char* list : {"/qemu/root/shared/0", "/qemu/root/hidden/0"}) {
    INFO(list);
    for (const char* path : {"",
                             "usr",
                             "/",
                             "/usr/",
                             "/usr//lib",
                             "/usr/./lib",
                             "/../etc",
                             "/usr/..",
                             "/usr/../etc",
                             "/proc",
                             "/proc/self"}) {
      INFO(path);
      CHECK(complaint(seal_with(list, path)) == "a path that QEMU's root folder does not have");
    }
    for (const char* path : {"/a/..b c", "/process"}) {
      INFO(path);
      CHECK(complaint(seal_with(list, path)) == "nothing");
    }
  }
}

TEST_CASE("protocol: a section of system calls is one of the policy's", "[guardian]") {
  for (const auto& [name, rules] : sandbox::own_policy().sections) {
    INFO(name);
    CHECK(complaint(seal_with("/qemu/calls/sections/0", name)) == "nothing");
  }
  for (const char* name : {"", "all", "KVM", "kvm "}) {
    INFO(name);
    CHECK(complaint(seal_with("/qemu/calls/sections/0", name)) ==
          "a section that the policy does not have");
  }
}

TEST_CASE("protocol: what may be plugged in is of a known kind, and each once", "[guardian]") {
  for (const Json& kinds :
       {Json{"disk", "disk"}, Json{""}, Json{"floppy"}, Json{"usb", "disk", "pci", "net", "usb"}}) {
    INFO(kinds);
    CHECK(complaint(seal_with("/qemu/hotplug", kinds)) == "something to plug in that no plan has");
  }
}

TEST_CASE("protocol: a refused system call has six arguments and a known outcome", "[guardian]") {
  const Json whole = {{"is", "call"},
                      {"name", "mmap"},
                      {"number", 9},
                      {"arguments", {0, 1, 2, 3, 4, 18446744073709551615U}},
                      {"outcome", 4}};
  CHECK(complaint_of_reply(whole.dump()) == "nothing");
  const auto with = [&](const char* field, const Json& value) {
    Json reply = whole;
    reply[field] = value;
    return complaint_of_reply(reply.dump());
  };
  CHECK(with("arguments", {1, 2, 3, 4, 5}) == "a system call has six arguments");
  CHECK(with("arguments", {1, 2, 3, 4, 5, 6, 7}) == "a system call has six arguments");
  CHECK(with("outcome", 5) == "\"outcome\" has the wrong type or range");
  CHECK(with("number", -1) == "\"number\" has the wrong type or range");
  CHECK(with("name", 7) == "\"name\" has the wrong type or range");
}

TEST_CASE("protocol: a NIC's step is for this VM, with names and addresses of a config",
          "[guardian]") {
  const std::string mac = "52:54:00:00:00:01";
  const Json tap = steps::to_json(steps::make_tap("win10", {7, "br0", true}, mac));
  const auto with = [&](const char* field, const Json& value) {
    Json step = tap;
    step[field] = value;
    return complaint(seal_with("/steps/0", step));
  };
  CHECK(with("nic", 0) == "nothing");
  CHECK(with("nic", 8) == "\"nic\" has the wrong type or range");
  CHECK(with("vm", "win11") == "a step that is no part of this plan");
  CHECK(with("vm", "../win10") == "not a VM's name");
  for (const char* link : {"", "../br0", "br0/x", "a b", "sixteen-letters-", "tap%d"}) {
    INFO(link);
    CHECK(with("link", link) == "not a network link's name");
  }
  for (const char* other : {"", "52:54:00:00:00:0A", "01:00:00:00:00:00", "52:54:00:00:00"}) {
    INFO(other);
    CHECK(with("mac", other) == "not a MAC address");
  }
}

TEST_CASE("protocol: two files under one number are refused", "[guardian]") {
  CHECK(complaint(seal_with("/files/2/fd", 10)) == "a descriptor's number stands twice");
}

TEST_CASE("protocol: the list of what was opened rises and stays within the files", "[guardian]") {
  const std::string wrong = "\"opened\" is not a rising list of the plan's files";
  struct Row {
    Json opened;
    std::string complaint;
  };
  for (const Row& row : {Row{Json::array(), "nothing"},
                         Row{{0, 1, 2}, "nothing"},
                         Row{{2}, "nothing"},
                         Row{{1, 0}, wrong},
                         Row{{0, 0}, wrong},
                         Row{{0, 2, 1}, wrong},
                         Row{{3}, wrong},
                         Row{{0, 176}, wrong},
                         Row{{177}, "\"opened\" has the wrong type or range"},
                         Row{{-1}, "\"opened\" has the wrong type or range"}}) {
    INFO(row.opened);
    CHECK(complaint(seal_with("/opened", row.opened)) == row.complaint);
  }
}

TEST_CASE("protocol: NUL in any text is refused", "[guardian]") {
  const Json whole = seal_json();
  const std::string nul("a\0b", 3);
  for_each_field(whole, "", [&](const std::string& object, const std::string& key) {
    const std::string pointer = object + "/" + key;
    INFO(pointer);
    const Json& right = whole[Json::json_pointer(pointer)];
    if (right.is_string()) {
      CHECK(complaint(seal_with(pointer.c_str(), nul)) != "nothing");
    } else if (right.is_array() && right.at(0).is_string()) {
      CHECK(complaint(seal_with((pointer + "/1").c_str(), nul)) ==
            "\"" + key + "\" has the wrong type or range");
    }
  });
}

TEST_CASE("protocol: a character that stands for no byte is refused", "[guardian]") {
  for (const char* text : {"\xc4\x80", "a\xe2\x80\xa6", "\xf0\x9f\x90\xa7"}) {
    INFO(text);
    for (const char* field : {"/config", "/name", "/files/0/path", "/qemu/binary"}) {
      CHECK(complaint(seal_with(field, text)).ends_with("has the wrong type or range"));
    }
    CHECK(complaint(seal_with("/qemu/arguments/1", text)) ==
          "\"arguments\" has the wrong type or range");
  }
}

TEST_CASE("protocol: more elements than a plan can have are refused", "[guardian]") {
  const auto many = [](std::size_t count, const Json& element) {
    return Json(std::vector<Json>(count, element));
  };
  CHECK(complaint(seal_with("/qemu/arguments", many(4096, "x"))) == "nothing");
  for (const char* field : {"/qemu/arguments", "/qemu/environment"}) {
    INFO(field);
    CHECK(complaint(seal_with(field, many(4097, "x"))).ends_with("has the wrong type or range"));
  }
  CHECK(complaint(seal_with("/qemu/dev/nodes", many(4097, "kvm"))) ==
        "\"nodes\" has the wrong type or range");
  CHECK(complaint(seal_with("/qemu/dev/usb", many(14, "1:4"))) == "nothing");
  CHECK(complaint(seal_with("/qemu/dev/usb", many(15, "1:4"))) ==
        "not a rule about USB devices, or too many");
  CHECK(complaint(seal_with("/opened", many(100000, 0))) ==
        "\"opened\" has the wrong type or range");
  Json files = Json::array();
  for (int fd = 10; fd < 10 + 177; ++fd) {
    Json file = seal_json().at("files").at(0);
    file["fd"] = fd;
    files.push_back(file);
  }
  CHECK(complaint(seal_with("/files", files)) == "\"files\" has the wrong type or range");
  files.erase(0);
  CHECK(complaint(seal_with("/files", files)) == "nothing");
}

TEST_CASE("protocol: deep nesting is refused without harm", "[guardian]") {
  const std::string deep(100000, '[');
  CHECK(complaint(deep) == "a packet is not a JSON object");
  CHECK(complaint("{\"do\":" + deep + std::string(100000, ']') + "}") ==
        "\"do\" has the wrong type or range");
}

}  // namespace
}  // namespace vmlaunch::launcher::guardian
