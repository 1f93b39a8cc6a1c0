#include "launcher/survey/usb.hpp"

#include <string>
#include <vector>

#include "launcher/survey/print.hpp"
#include "launcher/survey/print_parts.hpp"
#include "launcher/survey/record.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/usb_tree.hpp"

namespace vmlaunch::launcher::survey {
namespace {

using config::parse_usb_rule;
using tests::PciTree;

constexpr const char* kController = "0000:02:00.0";

/// What was found, and what was not understood.
struct Found {
  Usb usb;
  std::vector<std::string> unseen;
};

Found look(const PciTree& built) {
  const base::Tree tree = built.tree();
  Reader reader(tree);
  const Usb usb = look_at_usb(reader, UsbNames::read);
  return {usb, reader.unseen()};
}

/// A laptop with a bus: a mouse, a hub, and a disk behind it.
struct Desk {
  PciTree tree;

  Desk() {
    add_laptop(tree);
    add_usb_bus(tree, 1, kController);
    add_usb_device(tree, {.port = "1-2", .number = 4, .product = "Optical \x1b[2JMouse"});
    add_usb_device(tree,
                   {.port = "1-10",
                    .number = 5,
                    .ids = "05e3:0608",
                    .device_class = 9,
                    .interface_class = 0x090000,
                    .driver = "hub"});
    add_usb_device(tree,
                   {.port = "1-10.3",
                    .number = 17,
                    .ids = "0781:5567",
                    .speed = "480",
                    .interface_class = 0x080650,
                    .driver = "usb-storage"});
  }
};

TEST_CASE("usb: buses and devices are what the kernel says, in the order of their ports", "[usb]") {
  const Desk desk;
  const Found found = look(desk.tree);
  CHECK(found.unseen.empty());
  REQUIRE(found.usb.buses.size() == 1);
  const UsbBus& bus = found.usb.buses[0];
  CHECK(bus.number == 1);
  CHECK(bus.controller == base::PciAddress{0, 2, 0, 0});
  CHECK(bus.speed == "480");
  CHECK(bus.ports == 4);
  REQUIRE(bus.devices.size() == 3);
  CHECK(bus.devices[0] == UsbDevice{{1, {2}},
                                    4,
                                    {0x046d, 0xc051},
                                    "",
                                    "Optical \x1b[2JMouse",
                                    "12",
                                    0,
                                    {{"1-2:1.0", 0x030102, "usbhid"}}});
  CHECK(bus.devices[1].name() == "1-10");
  CHECK(bus.devices[1].is_hub());
  CHECK(bus.devices[2].name() == "1-10.3");
  CHECK_FALSE(bus.devices[2].is_hub());
  CHECK(bus.devices[2].node() == "bus/usb/001/017");
}

TEST_CASE("usb: a controller need not be a PCI function", "[usb]") {
  const PciTree tree;
  add_usb_bus(tree, 3, "");
  REQUIRE(look(tree).usb.buses.size() == 1);
  CHECK_FALSE(look(tree).usb.buses[0].controller);
}

TEST_CASE("usb: a rule means devices by ids, by port or by number", "[usb]") {
  const Desk desk;
  const Usb usb = look(desk.tree).usb;
  const auto found = [&](const char* rule) {
    std::string names;
    for (const UsbDevice& device : usb.find(parse_usb_rule(rule).value())) {
      names += device.name() + " ";
    }
    return names;
  };
  CHECK(found("046d:c051") == "1-2 ");
  CHECK(found("1-10.3") == "1-10.3 ");
  CHECK(found("1:4") == "1-2 ");
  CHECK(found("001:017") == "1-10.3 ");
  CHECK(found("046d:c052").empty());
  CHECK(found("1-3").empty());
  CHECK(found("2:4").empty());
  CHECK(found("1d6b:0002").empty());  // the root hub is no device
}

TEST_CASE("usb: every form of a rule is written as it is read, and nothing else is one", "[usb]") {
  for (const char* text : {"046d:c051", "1-2", "12-1.2.3.4.5.255", "1:4", "255:127"}) {
    INFO(text);
    REQUIRE(parse_usb_rule(text));
    CHECK(to_string(*parse_usb_rule(text)) == text);
  }
  CHECK(parse_usb_rule("001:004") == config::UsbRule(config::UsbAddress{1, 4}));
  CHECK(parse_usb_rule("046D:C051") == config::UsbRule(config::UsbIds{0x046d, 0xc051}));
  for (const char* text : {"",
                           "-",
                           "1",
                           "1-",
                           "-1",
                           "0-1",
                           "1-0",
                           "1-02",
                           "01-2",
                           "1-2.",
                           "1-2..3",
                           "1-2:1.0",
                           "1-2.3.4.5.6.7.8",
                           "1:0",
                           "0:1",
                           "1:128",
                           "0001:0004x",
                           "46d:c051",
                           "046d:c0511",
                           "1-256",
                           "256-1",
                           "usb1",
                           "1 - 2",
                           "+1:4",
                           "046d-c051"}) {
    INFO(text);
    CHECK_FALSE(parse_usb_rule(text));
  }
}

TEST_CASE("usb: what is malformed is a doubt, and the rest is seen", "[usb]") {
  struct Row {
    const char* file;
    const char* content;
    bool lost;  ///< the device is left out
  };
  for (const Row& row : {Row{"idVendor", "46d\n", true},
                         Row{"idProduct", "0xc051\n", true},
                         Row{"devnum", "1000\n", true},
                         Row{"devnum", "-4\n", true},
                         Row{"bDeviceClass", "hub\n", false},
                         Row{"speed", "fast\n", false},
                         Row{"1-2:1.0/bInterfaceClass", "3\n", false}}) {
    INFO(row.file << ": " << row.content);
    const Desk desk;
    const std::string path = usb_folder(desk.tree, "1-2") + "/" + row.file;
    desk.tree.write(path, row.content);
    const Found found = look(desk.tree);
    REQUIRE(found.unseen.size() == 1);
    CHECK(found.unseen[0].starts_with(path + ": not understood: "));
    CHECK(found.usb.find(config::UsbPort{1, {2}}).empty() == row.lost);
    CHECK(found.usb.find(config::UsbPort{1, {10, 3}}).size() == 1);
  }
}

TEST_CASE("usb: a link that leads out of the kernel's devices is a doubt", "[usb]") {
  const Desk desk;
  desk.tree.folder("/etc/1-3");
  desk.tree.link("/sys/bus/usb/devices/1-3", "/etc/1-3");
  const Found found = look(desk.tree);
  CHECK(found.unseen.size() == 1);
  CHECK(found.usb.find(config::UsbPort{1, {3}}).empty());
}

TEST_CASE("usb: devices' own words are read only where they are wanted", "[usb]") {
  const Desk desk;
  const base::Tree tree = desk.tree.tree();
  Reader reader(tree);
  CHECK(look_at_usb(reader, UsbNames::left_out).buses[0].devices[0].product.empty());
  CHECK_FALSE(reader.kept().contains(usb_folder(desk.tree, "1-2") + "/product"));
}

TEST_CASE("usb: a device that is pulled out is not there any more", "[usb]") {
  const Desk desk;
  remove_usb_device(desk.tree, "1-10");
  const Found found = look(desk.tree);
  CHECK(found.unseen.empty());
  CHECK(found.usb.buses[0].devices.size() == 1);
}

TEST_CASE("usb: people are told each bus with its devices, and nothing writes to a terminal",
          "[usb]") {
  const Desk desk;
  bind_usb(desk.tree, "1-10.3:1.0", "");
  std::string text;
  add_usb(text, Usb{});
  CHECK(text.empty());
  add_usb(text, look(desk.tree).usb);
  CHECK(text ==
        "\nUSB bus 1 of 0000:02:00.0, 480 Mbit/s, 4 ports\n"
        "  1-2 [046d:c051] \"Optical \\x1b[2JMouse\", number 4, 12 Mbit/s, input by usbhid\n"
        "  1-10 [05e3:0608], number 5, 12 Mbit/s, hub by hub\n"
        "  1-10.3 [0781:5567], number 17, 480 Mbit/s, storage without a driver\n");
}

TEST_CASE("usb: programs are told the same", "[usb]") {
  const Desk desk;
  const base::Tree tree = desk.tree.tree();
  Reader reader(tree);
  const nlohmann::json buses = to_json(look_at_host(reader), PciNames("/nonexistent")).at("usb");
  REQUIRE(buses.size() == 1);
  CHECK(buses[0].at("controller") == kController);
  CHECK(buses[0].at("devices").at(0) ==
        nlohmann::json{
            {"port", "1-2"},
            {"number", 4},
            {"ids", "046d:c051"},
            {"manufacturer", nullptr},
            {"product", "Optical \\x1b[2JMouse"},
            {"speed", "12"},
            {"class", "00"},
            {"hub", false},
            {"interfaces", {{{"name", "1-2:1.0"}, {"class", "030102"}, {"driver", "usbhid"}}}}});
}

TEST_CASE("usb: a look at a record finds what a look at the host found", "[usb]") {
  const Desk desk;
  const tests::Folder folder;
  write_record(record(desk.tree.tree()), folder.file("tree"));
  const base::Tree again(folder.file("tree"));
  Reader reader(again);
  CHECK(look_at_usb(reader, UsbNames::read) == look(desk.tree).usb);
  CHECK(reader.unseen().empty());
}

}  // namespace
}  // namespace vmlaunch::launcher::survey
