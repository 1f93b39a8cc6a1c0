#include <memory>
#include <string>

#include "base/text.hpp"
#include "launcher/steps/steps.hpp"

namespace vmlaunch::launcher::steps {

namespace {

constexpr const char* kConsoles = "/sys/class/vtconsole";

std::string folder_of(std::uint64_t number) {
  return std::string(kConsoles) + "/vtcon" + std::to_string(number);
}

/// One that draws on a framebuffer: "(M) frame buffer device".
bool is_graphical(const Host& host, const std::string& folder) {
  return host.tree().read(folder + "/name").value_or("").find("frame buffer") != std::string::npos;
}

/// Takes the host's console off its framebuffers, which a driver in use by it would not let go of.
class ReleaseConsole final : public Change {
 public:
  const char* kind() const override { return "release-console"; }

  Step read(Fields& /*fields*/) const override { return release_console(); }
  void write(Json& /*json*/) const override {}

  std::string describe() const override {
    return "take the host's console off the screen (vtconsole/*/bind 0)";
  }
  std::string describe_undo() const override { return "on the screen again, where it was"; }
  std::string object() const override { return "console"; }

  Json capture(const Host& host, const Context& /*context*/) const override {
    Json bound = Json::array();
    for (const std::string& name : host.tree().list(kConsoles)) {
      const auto number =
          name.starts_with("vtcon") ? base::parse_number<unsigned>(name.substr(5)) : std::nullopt;
      if (number && is_graphical(host, folder_of(*number)) &&
          host.tree().read(folder_of(*number) + "/bind") == "1") {
        bound.push_back(*number);
      }
    }
    return {{"bound", bound}};
  }

  void apply(Host& host,
             const Context& /*context*/,
             const Json& found,
             const Note& /*note*/) const override {
    for (const std::uint64_t number : Fields(found).numbers("bound", 0, UINT16_MAX)) {
      host.write(folder_of(number) + "/bind", "0");
    }
  }

  void undo(Host& host, const Json& found) const override {
    std::string gone;
    for (const std::uint64_t number : Fields(found).numbers("bound", 0, UINT16_MAX)) {
      const std::string folder = folder_of(number);
      if (!is_graphical(host, folder)) {
        gone += " " + folder;  // it goes with its last framebuffer, and comes back with one
      } else if (host.tree().read(folder + "/bind") != "1") {
        host.write(folder + "/bind", "1");
      }
    }
    if (!gone.empty()) {
      throw Lost("no driver has made its framebuffer again:" + gone +
                 "; type: grep . /sys/class/vtconsole/*/name");
    }
  }
};

}  // namespace

Step release_console() {
  return Step(std::make_shared<ReleaseConsole>());
}

}  // namespace vmlaunch::launcher::steps
