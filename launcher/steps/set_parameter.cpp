#include <sys/stat.h>

#include <memory>
#include <utility>

#include "base/text.hpp"
#include "launcher/config/config.hpp"
#include "launcher/steps/steps.hpp"
#include "launcher/survey/kernel.hpp"

namespace vmlaunch::launcher::steps {

namespace {

std::string word(bool on) {
  return on ? "Y" : "N";
}

/// Turns a parameter of a loaded kernel module on or off.
class SetParameter final : public Change {
 public:
  SetParameter(std::string name, bool on) : name_(std::move(name)), on_(on) {}

  const char* kind() const override { return "set-parameter"; }

  Step read(Fields& fields) const override {
    std::string name = fields.text("name");
    if (!config::is_module_parameter(name)) {
      throw FormError("not a parameter that a VM may set");
    }
    return set_parameter(std::move(name), fields.boolean("on"));
  }
  void write(Json& json) const override { json.update({{"name", name_}, {"on", on_}}); }

  std::string describe() const override {
    return "set the module parameter " + name_ + " to " + word(on_);
  }
  std::string describe_undo() const override { return "as it was"; }
  std::string object() const override { return survey::parameter_file(name_); }
  bool is_free_of_qemu() const override { return true; }
  bool shared() const override { return true; }

  void check(const Host& host) const override {
    const auto file = host.tree().status(object());
    if (value(host) != on_ && file && (file->st_mode & S_IWUSR) == 0) {
      throw Failure(ExitCode::preflight,
                    "Cannot " + describe() +
                        ": this kernel takes it only when it loads the module; add to the kernel's "
                        "command line: " +
                        name_ + "=" + word(on_));
    }
  }

  Json capture(const Host& host, const Context& /*context*/) const override {
    return {{"on", value(host)}};
  }

  void apply(Host& host,
             const Context& /*context*/,
             const Json& /*found*/,
             const Note& /*note*/) const override {
    set(host, on_);
  }

  // It has two values: nothing tells somebody else's change.
  void undo(Host& host, const Json& found) const override {
    Fields fields(found);
    set(host, fields.boolean("on"));
  }

 private:
  bool value(const Host& host) const {
    const auto text = host.tree().read(object());
    if (text != "Y" && text != "N") {
      throw Failure(ExitCode::preflight,
                    "Cannot " + describe() + ": " + object() +
                        " is not there, or not a yes or no; type: modprobe " +
                        name_.substr(0, name_.find('.')));
    }
    return text == "Y";
  }

  void set(Host& host, bool on) const {
    if (value(host) != on) {
      host.write(object(), word(on));
    }
  }

  std::string name_;  ///< "kvm.ignore_msrs"
  bool on_;
};

}  // namespace

Step set_parameter(std::string name, bool on) {
  return Step(std::make_shared<SetParameter>(std::move(name), on));
}

}  // namespace vmlaunch::launcher::steps
