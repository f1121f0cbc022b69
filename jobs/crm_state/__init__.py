"""The CRM whose state the tables hold: the check before every command that uses it, and the switch to another CRM."""
