#include "qmp/schema.hpp"

#include <algorithm>
#include <set>
#include <utility>

#include "qmp/errors.hpp"

namespace vmlaunch::qmp {

namespace {

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

/// Members of that name in these types, or in what they are made of. Each type is looked at once,
/// since types lead to each other in rings and by many ways.
std::vector<const Schema::Member*> Schema::members_of(std::vector<const std::string*> types,
                                                      const std::string& name) const {
  std::vector<const Member*> members;
  std::set<const Entity*> seen;
  while (!types.empty()) {
    const auto found = entities_.find(*types.back());
    types.pop_back();
    if (found == entities_.end() || !seen.insert(&found->second).second) {
      continue;
    }
    const Entity& entity = found->second;
    for (const Member& member : entity.members) {
      if (member.name == name) {
        members.push_back(&member);
      }
    }
    for (const std::string& branch : entity.branches) {
      types.push_back(&branch);
    }
    if (entity.kind == "array") {
      types.push_back(&entity.next);
    }
  }
  return members;
}

/// A name may stand in several branches of a union, and only one of them may lead on.
std::vector<const Schema::Member*> Schema::find_args(const Entity& entity,
                                                     std::string_view path) const {
  std::vector<const std::string*> types = {&entity.next};
  std::vector<const Member*> members;
  while (!path.empty()) {
    const auto [name, rest] = split(path);
    members = members_of(std::move(types), name);
    types.clear();
    types.reserve(members.size());
    for (const Member* member : members) {
      types.push_back(&member->type);
    }
    path = rest;
  }
  return members;
}

bool Schema::has_arg(const std::string& command, std::string_view path) const {
  const Entity* entity = find(command, "command");
  return entity != nullptr && !find_args(*entity, path).empty();
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
  const std::vector<const Member*> members = find_args(*entity, rest);
  return std::any_of(members.begin(), members.end(), [&](const Member* member) {
    return contains(member->features, feature);
  });
}

}  // namespace vmlaunch::qmp
