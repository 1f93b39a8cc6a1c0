#include "launcher/steps/step.hpp"

#include <optional>

namespace vmlaunch::launcher::steps {

namespace {

/// The first alternative whose kind it is.
template <std::size_t I = 0>
Step read_kind(const std::string& kind, Fields& fields) {
  if constexpr (I < std::variant_size_v<Step>) {
    using Kind = std::variant_alternative_t<I, Step>;
    if (kind == Kind::kKind) {
      return Kind::read(fields);
    }
    return read_kind<I + 1>(kind, fields);
  } else {
    throw FormError("an unknown step");
  }
}

}  // namespace

Json to_json(const Step& step) {
  return std::visit(
      [](const auto& s) {
        Json json = {{"kind", s.kKind}};
        s.write(json);
        return json;
      },
      step);
}

Step read_step(const Json& json) {
  Fields fields(json);
  Step step = read_kind(fields.text("kind"), fields);
  fields.finish();
  return step;
}

std::string describe(const Step& step) {
  return std::visit([](const auto& s) { return s.describe(); }, step);
}

std::string describe_undo(const Step& step) {
  return std::visit([](const auto& s) { return s.describe_undo(); }, step);
}

std::string object_of(const Step& step) {
  return std::visit([](const auto& s) { return s.object(); }, step);
}

int capability_of(const Step& step) {
  return std::visit([](const auto& s) { return s.kCapability; }, step);
}

}  // namespace vmlaunch::launcher::steps
