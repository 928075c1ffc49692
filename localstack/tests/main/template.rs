//! The template itself.

/// A name that a template gives is one for the whole account and region.
#[test]
fn no_resource_has_a_fixed_name_so_that_two_stages_live_in_one_account() {
    let template = include_str!("../../../infra/template.yaml");
    let names =
        ["FunctionName", "QueueName", "LogGroupName", "RoleName", "PolicyName", "TopicName", "AlarmName", "Name"];
    for (number, line) in template.lines().enumerate().skip_while(|(_, line)| *line != "Resources:") {
        if line == "Outputs:" {
            break;
        }
        // Which queue an alarm's metric is about, which function a permission: the names that they were given. A WebSocket API must have a
        // name, and has its stack's.
        let is_given = line.trim_start().starts_with("Dimensions:") || line.contains("FunctionName: !Ref");
        if is_given || line.contains(" Name: !Sub \"${AWS::StackName}-") {
            continue;
        }
        for name in names {
            let is_named = line.split(['{', ',', ' ']).any(|word| word == format!("{name}:"));
            assert!(!is_named, "line {}: {line}", number + 1);
        }
    }
}
