#include <optional>
#include <string>

#include "launcher/config/values.hpp"
#include "tests/support/catch.hpp"

namespace vmlaunch::launcher::config {
namespace {

using Protocol = PortForward::Protocol;

TEST_CASE("port forward: what is left out is TCP on the loopback address", "[config]") {
  struct Row {
    const char* text;
    PortForward forward;
  };
  for (const Row& row : {
           Row{"2222:22", {Protocol::tcp, "127.0.0.1", 2222, 22}},
           Row{"tcp:2222:22", {Protocol::tcp, "127.0.0.1", 2222, 22}},
           Row{"udp:53:5353", {Protocol::udp, "127.0.0.1", 53, 5353}},
           Row{"0.0.0.0:80:8080", {Protocol::tcp, "0.0.0.0", 80, 8080}},
           Row{"udp:192.168.1.9:1:65535", {Protocol::udp, "192.168.1.9", 1, 65535}},
           Row{"tcp:127.0.0.1:65535:1", {Protocol::tcp, "127.0.0.1", 65535, 1}},
       }) {
    INFO(row.text);
    const std::optional<PortForward> forward = parse_port_forward(row.text);
    REQUIRE(forward);
    CHECK(*forward == row.forward);
  }
}

TEST_CASE("port forward: its text has every part and is read back as the same", "[config]") {
  struct Row {
    const char* text;
    const char* written;
  };
  for (const Row& row : {
           Row{"2222:22", "tcp:127.0.0.1:2222:22"},
           Row{"udp:53:5353", "udp:127.0.0.1:53:5353"},
           Row{"10.0.0.1:00080:080", "tcp:10.0.0.1:80:80"},
       }) {
    INFO(row.text);
    const std::optional<PortForward> forward = parse_port_forward(row.text);
    REQUIRE(forward);
    CHECK(to_string(*forward) == row.written);
    CHECK(parse_port_forward(row.written) == forward);
  }
}

TEST_CASE("port forward: any other text is none", "[config]") {
  for (const char* text : {"",
                           ":",
                           "22",
                           "tcp",
                           "tcp:",
                           "tcp:22",
                           "tcp:udp:1:2",
                           "TCP:2222:22",
                           "sctp:2222:22",
                           "tcp:2222:22:",
                           ":2222:22",
                           "2222:22:",
                           "2222::22",
                           "tcp::2222:22",
                           "tcp:127.0.0.1:2222-:22",
                           "0:22",
                           "2222:0",
                           "65536:22",
                           "2222:65536",
                           "99999999999999999999:22",
                           "-1:22",
                           "+1:22",
                           " 2222:22",
                           "2222:22 ",
                           "2222:22\n",
                           "0x10:22",
                           "localhost:2222:22",
                           "127.0.0.256:2222:22",
                           "127.1:2222:22",
                           "127.0.0.1.:2222:22",
                           "::1:2222:22",
                           "[::1]:2222:22",
                           "127.0.0.1:2222:10.0.2.15:22",
                           "127.0.0.1,x=y:2222:22"}) {
    INFO("\"" << text << "\"");
    CHECK_FALSE(parse_port_forward(text));
  }
}

TEST_CASE("endpoint: an IPv4 address and a port are read and written back", "[config]") {
  struct Row {
    const char* text;
    Endpoint endpoint;
  };
  for (const Row& row : {Row{"127.0.0.1:5900", {"127.0.0.1", 5900}},
                         Row{"0.0.0.0:1", {"0.0.0.0", 1}},
                         Row{"255.255.255.255:65535", {"255.255.255.255", 65535}}}) {
    INFO(row.text);
    const std::optional<Endpoint> endpoint = parse_endpoint(row.text);
    REQUIRE(endpoint);
    CHECK(*endpoint == row.endpoint);
    CHECK(to_string(*endpoint) == row.text);
  }
}

TEST_CASE("endpoint: any other text is none", "[config]") {
  for (const char* text : {"",
                           ":",
                           "127.0.0.1",
                           "127.0.0.1:",
                           ":5900",
                           "5900",
                           "127.0.0.1:0",
                           "127.0.0.1:65536",
                           "127.0.0.1:-1",
                           "127.0.0.1:5900:",
                           "127.0.0.1:5900,password=off",
                           "127.0.0.1 :5900",
                           "127.0.0:5900",
                           "127.0.0.1.1:5900",
                           "localhost:5900",
                           "::1:5900",
                           "unix:/tmp/socket"}) {
    INFO("\"" << text << "\"");
    CHECK_FALSE(parse_endpoint(text));
  }
}

TEST_CASE("MAC address: it is kept in lower case", "[config]") {
  struct Row {
    const char* text;
    const char* mac;
  };
  for (const Row& row : {Row{"52:54:00:00:00:01", "52:54:00:00:00:01"},
                         Row{"52:54:00:AB:Cd:eF", "52:54:00:ab:cd:ef"},
                         Row{"FE:FF:FF:FF:FF:FF", "fe:ff:ff:ff:ff:ff"},
                         Row{"00:00:00:00:00:01", "00:00:00:00:00:01"}}) {
    INFO(row.text);
    CHECK(parse_mac_address(row.text) == MacAddress{row.mac});
    CHECK(parse_mac_address(row.mac) == MacAddress{row.mac});
  }
}

TEST_CASE("MAC address: a group address and any other text is none", "[config]") {
  for (const char* text : {"",
                           ":::::",
                           "52:54:00:00:00",
                           "52:54:00:00:00:01:02",
                           "52:54:00:00:00:1",
                           "52:54:00:00:00:001",
                           "52:54:00:00:00:0g",
                           "52:54:00:00:00:0x",
                           "52:54:00:00:00:-1",
                           "52-54-00-00-00-01",
                           "525400000001",
                           " 52:54:00:00:00:01",
                           "52:54:00:00:00:01\n",
                           "01:00:5e:00:00:01",
                           "33:33:00:00:00:01",
                           "ff:ff:ff:ff:ff:ff"}) {
    INFO("\"" << text << "\"");
    CHECK_FALSE(parse_mac_address(text));
  }
}

TEST_CASE("MAC address: zeros alone, for which QEMU would take another, are none", "[config]") {
  CHECK_FALSE(parse_mac_address("00:00:00:00:00:00"));
}

TEST_CASE("PCI selector: each form is read, and written in full", "[config]") {
  for (const auto& [text, full] : {std::pair("04:00.1", "0000:04:00.1"),
                                   std::pair("10000:e1:00.7", "10000:e1:00.7"),
                                   std::pair("04:1f", "0000:04:1f"),
                                   std::pair("0001:04:00", "0001:04:00"),
                                   std::pair("10DE:1b81", "10de:1b81"),
                                   std::pair("class:0C03", "class:0c03")}) {
    INFO(text);
    const auto selector = parse_pci_selector(text);
    REQUIRE(selector);
    CHECK(to_string(*selector) == full);
    CHECK(parse_pci_selector(full) == selector);
  }
  for (const char* text : {"",
                           "04",
                           "4:00",
                           "04:20",
                           "04:00.8",
                           "04:00.0.0",
                           "10de:1b8",
                           "class:",
                           "class:300",
                           "class:03000",
                           "class:03g0",
                           "10de:*",
                           " 04:00"}) {
    INFO(text);
    CHECK_FALSE(parse_pci_selector(text));
  }
}

}  // namespace
}  // namespace vmlaunch::launcher::config
