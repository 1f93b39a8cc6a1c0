#include "qmp/schema.hpp"

#include <algorithm>

#include "qmp/errors.hpp"

namespace vmlaunch::qmp {

namespace {

/// Types that lead to each other end here.
constexpr unsigned kDepth = 16;

[[noreturn]] void refuse() {
  throw ProtocolError("What QEMU returned is not its schema");
}

std::string text(const Json& object, const char* key) {
  if (!object.is_object()) {
    refuse();
  }
  const auto found = object.find(key);
  if (found == object.end()) {
    return "";
  }
  if (!found->is_string()) {
    refuse();
  }
  return found->get<std::string>();
}

std::vector<std::string> texts(const Json& object, const char* key) {
  std::vector<std::string> all;
  for (const Json& one : object.value(key, Json::array())) {
    if (!one.is_string()) {
      refuse();
    }
    all.push_back(one.get<std::string>());
  }
  return all;
}

std::pair<std::string, std::string_view> split(std::string_view path) {
  const std::size_t slash = std::min(path.find('/'), path.size());
  return {std::string(path.substr(0, slash)), path.substr(std::min(slash + 1, path.size()))};
}

bool contains(const std::vector<std::string>& all, const std::string& one) {
  return std::find(all.begin(), all.end(), one) != all.end();
}

}  // namespace

Schema::Schema(const Json& entries) {
  if (!entries.is_array()) {
    refuse();
  }
  for (const Json& entry : entries) {
    if (!entry.is_object()) {
      refuse();
    }
    take(entry);
  }
}

void Schema::take(const Json& entry) {
  Entity entity;
  entity.kind = text(entry, "meta-type");
  entity.next = text(entry, entity.kind == "array" ? "element-type" : "arg-type");
  entity.features = texts(entry, "features");
  entity.allow_oob = entry.value("allow-oob", Json()) == true;
  if (entity.kind == "object") {
    for (const Json& member : entry.value("members", Json::array())) {
      entity.members.push_back(
          {text(member, "name"), text(member, "type"), texts(member, "features")});
    }
  }
  const char* branches = entity.kind == "alternate" ? "members" : "variants";
  if (entity.kind == "alternate" || entity.kind == "object") {
    for (const Json& branch : entry.value(branches, Json::array())) {
      entity.branches.push_back(text(branch, "type"));
    }
  }
  entities_[text(entry, "name")] = std::move(entity);
}

const Schema::Entity* Schema::find(const std::string& name, std::string_view kind) const {
  const auto found = entities_.find(name);
  return found != entities_.end() && found->second.kind == kind ? &found->second : nullptr;
}

bool Schema::has_command(const std::string& command) const {
  return find(command, "command") != nullptr;
}

bool Schema::has_event(const std::string& event) const {
  return find(event, "event") != nullptr;
}

bool Schema::allows_oob(const std::string& command) const {
  const Entity* entity = find(command, "command");
  return entity != nullptr && entity->allow_oob;
}

/// Members of that name in a type, or in what it is made of.
void Schema::collect(const std::string& type,
                     const std::string& name,
                     unsigned depth,
                     std::vector<const Member*>& found) const {
  const auto entity = entities_.find(type);
  if (entity == entities_.end() || depth > kDepth) {
    return;
  }
  for (const Member& member : entity->second.members) {
    if (member.name == name) {
      found.push_back(&member);
    }
  }
  for (const std::string& branch : entity->second.branches) {
    collect(branch, name, depth + 1, found);
  }
  if (entity->second.kind == "array") {
    collect(entity->second.next, name, depth + 1, found);
  }
}

/// A name may stand in several branches of a union, and only one of them may lead on.
const Schema::Member* Schema::find_arg(const Entity& entity, std::string_view path) const {
  std::vector<std::string> types = {entity.next};
  const Member* last = nullptr;
  while (!path.empty()) {
    const auto [name, rest] = split(path);
    std::vector<const Member*> found;
    for (const std::string& type : types) {
      collect(type, name, 0, found);
    }
    if (found.empty()) {
      return nullptr;
    }
    types.clear();
    for (const Member* member : found) {
      types.push_back(member->type);
    }
    last = found.front();
    path = rest;
  }
  return last;
}

bool Schema::has_arg(const std::string& command, std::string_view path) const {
  const Entity* entity = find(command, "command");
  return entity != nullptr && find_arg(*entity, path) != nullptr;
}

bool Schema::has_feature(std::string_view path, const std::string& feature) const {
  const auto [name, rest] = split(path);
  const Entity* entity = find(name, "command");
  entity = entity == nullptr ? find(name, "event") : entity;
  if (entity == nullptr) {
    return false;
  }
  if (rest.empty()) {
    return contains(entity->features, feature);
  }
  const Member* member = find_arg(*entity, rest);
  return member != nullptr && contains(member->features, feature);
}

}  // namespace vmlaunch::qmp
