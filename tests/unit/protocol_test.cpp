#include "launcher/guardian/protocol.hpp"

#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "tests/unit/protocol_text.hpp"

namespace vmlaunch::launcher::guardian {
namespace {

using namespace tests;

TEST_CASE("protocol: the plan arrives as it was sent", "[guardian]") {
  const Seal sent = rich_seal();
  const Request request = decode_request(encode(Request(sent)));
  REQUIRE(std::holds_alternative<Seal>(request));
  const Seal& got = std::get<Seal>(request);
  CHECK(got.config_name == sent.config_name);
  CHECK(got.program_opened);
  CHECK(got.opened == sent.opened);
  plan::Plan expected = sent.plan;
  expected.deadlines.handshake = plan::Deadlines{}.handshake;
  expected.deadlines.reply = plan::Deadlines{}.reply;
  CHECK(got.plan == expected);
}

TEST_CASE("protocol: of QEMU's user only the uid travels", "[guardian]") {
  Seal sent = rich_seal();
  sent.plan.qemu.user.name = "anna";
  sent.plan.qemu.user.credentials = sandbox::Credentials{1000, 1001, {27, 0}};
  const Request request = decode_request(encode(Request(sent)));
  const plan::QemuUser& user = std::get<Seal>(request).plan.qemu.user;
  CHECK(user == plan::QemuUser{"", sandbox::Credentials{1000, 0, {}}});
}

TEST_CASE("protocol: every request is the same after a round trip", "[guardian]") {
  Seal bare;
  bare.plan.name = "bare";
  bare.plan.qemu.user.credentials.reset();
  for (const Request& request : {Request(Begin{"win10", false}),
                                 Request(Begin{"a", true}),
                                 Request(Begin{"a", false, true}),
                                 Request(rich_seal()),
                                 Request(bare),
                                 Request(Apply{0}),
                                 Request(Apply{1024}),
                                 Request(Spawn{}),
                                 Request(Signal{SIGTERM}),
                                 Request(Signal{SIGKILL}),
                                 Request(Started{}),
                                 Request(Stop{}),
                                 Request(FilterPhase{true}),
                                 Request(FilterPhase{false}),
                                 Request(UsbChanged{}),
                                 Request(Restart{}),
                                 Request(Status{}),
                                 Request(Undo{true}),
                                 Request(Undo{false})}) {
    const std::string bytes = encode(request);
    INFO(bytes);
    const Request decoded = decode_request(bytes);
    CHECK(decoded.index() == request.index());
    CHECK(encode(decoded) == bytes);
  }
}

TEST_CASE("protocol: a run begins with a VM's name", "[guardian]") {
  for (const char* bytes : {R"({"do":"begin","vm":"../x","dry":false})",
                            R"({"do":"begin","vm":"","dry":false})",
                            R"({"do":"begin","vm":"vm"})",
                            R"({"do":"begin","vm":"vm","dry":false,"more":1})"}) {
    INFO(bytes);
    CHECK_THROWS_AS(decode_request(bytes), ProtocolError);
  }
}

TEST_CASE("protocol: every reply is the same after a round trip", "[guardian]") {
  constexpr auto kLate = sandbox::RefusedCall::Outcome::late;
  constexpr auto kEnded = sandbox::RefusedCall::Outcome::ended;
  std::string all_bytes;
  for (int byte = 0; byte < 256; ++byte) {
    all_bytes += static_cast<char>(byte);
  }
  for (const Reply& reply : {Reply(Begun{}),
                             Reply(Begun{{"put back: \"x\"\n", "\xff"}}),
                             Reply(Sealed{}),
                             Reply(Sealed{{{0, ""}, {63, "QFI\xfb\0\n"}, {2, all_bytes}}}),
                             Reply(Applied{0}),
                             Reply(Applied{1024}),
                             Reply(Spawned{1}),
                             Reply(Spawned{4194304}),
                             Reply(Done{}),
                             Reply(Done{ExitCode::stuck, {"QEMU \"x\"\n", ""}}),
                             Reply(StatusReply{"idle", 0}),
                             Reply(StatusReply{"running", 17}),
                             Reply(Refused{ExitCode::preflight, "Cannot: é\n"}),
                             Reply(Refused{ExitCode::stuck, ""}),
                             Reply(Refused{ExitCode::ended, "stopped"}),
                             Reply(Waiting{"two seconds more"}),
                             Reply(CallRefused{"mmap", {{9, {0, 4096, 5}}, kLate}}),
                             Reply(CallRefused{"system call 500", {{500, {~0ULL}}, kEnded}}),
                             Reply(Exited{{0, 0}}),
                             Reply(Exited{{255, 0}}),
                             Reply(Exited{{0, SIGKILL}})}) {
    const std::string bytes = encode(reply);
    INFO(bytes);
    const Reply decoded = decode_reply(bytes);
    CHECK(decoded.index() == reply.index());
    CHECK(encode(decoded) == bytes);
  }
}

TEST_CASE("protocol: an image's header arrives byte by byte", "[guardian]") {
  const std::string head("QFI\xfb\0\0\0\3\n\xff\x80", 11);
  const Reply reply = decode_reply(encode(Reply(Sealed{{{3, head}}})));
  REQUIRE(std::holds_alternative<Sealed>(reply));
  const Sealed& sealed = std::get<Sealed>(reply);
  REQUIRE(sealed.files.size() == 1);
  CHECK(sealed.files[0].index == 3);
  CHECK(sealed.files[0].head == head);
}

TEST_CASE("protocol: a refusal gets through whatever bytes are in it", "[guardian]") {
  const Reply reply = decode_reply(encode(Reply(Refused{ExitCode::preflight,
                                                        "a\xff"
                                                        "b"})));
  REQUIRE(std::holds_alternative<Refused>(reply));
  CHECK(std::get<Refused>(reply).code == ExitCode::preflight);
  CHECK(std::get<Refused>(reply).message ==
        "a\xff"
        "b");
}

TEST_CASE("protocol: a path is any bytes but NUL", "[guardian]") {
  Seal sent = rich_seal();
  sent.config_name = "f\xfcr.json";
  sent.plan.files[1].path = "/\xff\x80";
  sent.plan.files[1].template_path = "/\xc3";
  sent.plan.qemu.binary = "/opt/\xe9/qemu";
  const Request request = decode_request(encode(Request(sent)));
  const Seal& got = std::get<Seal>(request);
  CHECK(got.config_name == sent.config_name);
  CHECK(got.plan.files == sent.plan.files);
  CHECK(got.plan.qemu.binary == sent.plan.qemu.binary);
}

TEST_CASE("protocol: a plan with any byte dropped is refused or still a request", "[guardian]") {
  const std::string whole = encode(Request(rich_seal()));
  std::size_t refused = 0;
  for (std::size_t i = 0; i < whole.size(); ++i) {
    INFO(i);
    std::string bytes = whole;
    bytes.erase(i, 1);
    try {
      const Request request = decode_request(bytes);
      CHECK(encode(decode_request(encode(request))) == encode(request));
    } catch (const ProtocolError&) {
      ++refused;
    }
  }
  CHECK(refused > whole.size() / 2);
}

TEST_CASE("protocol: a plan cut at any byte is refused", "[guardian]") {
  const std::string whole = encode(Request(rich_seal()));
  for (std::size_t length = 0; length < whole.size(); ++length) {
    INFO(length);
    CHECK(complaint(whole.substr(0, length)) == "a packet is not a JSON object");
  }
}

TEST_CASE("protocol: a plan with any byte replaced is refused or still a request", "[guardian]") {
  const std::string whole = encode(Request(rich_seal()));
  for (const char other : {'\0', '"', '\\', '{', ']', '-', '9', 'a', '\x7f', '\xff'}) {
    for (std::size_t i = 0; i < whole.size(); ++i) {
      INFO(i << " is " << static_cast<int>(other));
      std::string bytes = whole;
      bytes[i] = other;
      try {
        const Request request = decode_request(bytes);
        const std::string again = encode(request);
        CHECK(encode(decode_request(again)) == again);
      } catch (const ProtocolError&) {
        // As it should be.
      }
    }
  }
}

TEST_CASE("protocol: a reply that is not of the protocol is refused", "[guardian]") {
  for (const char* bytes : {R"({"is":"spawned"})",
                            R"({"is":"spawned","pid":0})",
                            R"({"is":"spawned","pid":-1})",
                            R"({"is":"spawned","pid":2147483648})",
                            R"({"is":"spawned","pid":1,"more":1})",
                            R"({"is":"done"})",
                            R"({"is":"done","leftovers":[]})",
                            R"({"is":"done","code":256,"leftovers":[]})",
                            R"({"is":"applied"})",
                            R"({"is":"applied","step":1025})",
                            R"({"is":"done","code":0,"leftovers":"x"})",
                            R"({"is":"done","code":0,"leftovers":[1]})",
                            R"({"is":"done","code":0,"leftovers":["a\u0000b"]})",
                            R"({"is":"status","state":"idle"})",
                            R"({"is":"status","state":1,"pid":0})",
                            R"({"is":"refused","code":-1,"message":""})",
                            R"({"is":"refused","code":256,"message":""})",
                            R"({"is":"refused","code":10})",
                            R"({"is":"waiting"})",
                            R"({"is":"waiting","text":1})",
                            R"({"is":"exited","code":256,"signal":0})",
                            R"({"is":"exited","code":0,"signal":129})",
                            R"({"is":"exited","code":0})",
                            R"({"is":"sealed"})",
                            R"({"is":"sealed","files":[],"more":1})",
                            R"({"is":"begun"})",
                            R"({"is":"begun","leftovers":[1]})",
                            R"({"is":"sealed","files":{}})",
                            R"({"is":"sealed","files":[1]})",
                            R"({"is":"sealed","files":[{"index":0}]})",
                            R"({"is":"sealed","files":[{"index":177,"head":""}]})",
                            R"({"is":"sealed","files":[{"index":0,"head":"zz"}]})",
                            R"({"is":"sealed","files":[{"index":0,"head":"0"}]})",
                            R"({"is":"sealed","files":[{"index":0,"head":"000"}]})",
                            R"({"is":"sealed","files":[{"index":0,"head":"","more":1}]})"}) {
    INFO(bytes);
    CHECK(complaint_of_reply(bytes) != "nothing");
  }
}

}  // namespace
}  // namespace vmlaunch::launcher::guardian
