#pragma once

#include <string>
#include <utility>
#include <vector>

#include "base/text.hpp"
#include "launcher/steps/card.hpp"
#include "launcher/steps/pci_paths.hpp"
#include "launcher/steps/step.hpp"

namespace vmlaunch::launcher::steps {

/// A change of functions that are on one bus, which no other VM may have meanwhile.
class CardChange : public Change {
 public:
  explicit CardChange(std::vector<base::PciAddress> functions) : functions_(std::move(functions)) {}

  std::string object() const override { return base::to_string(functions_.front()); }
  std::vector<std::string> objects() const override { return addresses(); }
  std::vector<std::string> reserves() const override { return addresses(); }

  void write(Json& json) const override { json["functions"] = addresses(); }

  void check(const Host& host) const override {
    for (const base::PciAddress& function : functions_) {
      require_device(host, function);
    }
  }

 protected:
  [[nodiscard]] const std::vector<base::PciAddress>& functions() const { return functions_; }
  [[nodiscard]] Card card() const { return Card(functions_); }
  [[nodiscard]] std::string names() const { return base::join(addresses(), ", "); }

  /// Throws FormError for anything but addresses of one bus.
  static std::vector<base::PciAddress> read_functions(Fields& fields) {
    std::vector<base::PciAddress> functions;
    for (const std::string& text : fields.texts("functions")) {
      const auto address = base::parse_pci_address(text);
      const bool of_bus =
          address && (functions.empty() || (address->domain == functions.front().domain &&
                                            address->bus == functions.front().bus));
      if (!of_bus) {
        throw FormError("not functions of one bus");
      }
      functions.push_back(*address);
    }
    if (functions.empty()) {
      throw FormError("a card without functions");
    }
    return functions;
  }

 private:
  [[nodiscard]] std::vector<std::string> addresses() const {
    std::vector<std::string> words;
    words.reserve(functions_.size());
    for (const base::PciAddress& function : functions_) {
      words.push_back(base::to_string(function));
    }
    return words;
  }

  std::vector<base::PciAddress> functions_;
};

}  // namespace vmlaunch::launcher::steps
