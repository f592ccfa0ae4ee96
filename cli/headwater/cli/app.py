"""Law: every level answers `--help` with what it is for and an example."""

import typer

from headwater.cli import broker, data, demo, devices, enrolments, models, pki, releases, runs, services, tokens

app = typer.Typer(
    name="headwater",
    help="Federated learning for fleets of IoT devices, as a tree over MQTT. Begin with: headwater demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("demo")(demo.demo)
app.command("cloud")(services.cloud)
app.command("gateway")(services.gateway)
app.command("bridge")(services.bridge)
app.command("dashboard")(services.dashboard)
app.command("enrol")(enrolments.enrol)
pki.app.command("token")(enrolments.token)
pki.app.command("serve")(enrolments.serve)
app.add_typer(devices.app, name="device")
app.add_typer(runs.app, name="run")
app.add_typer(tokens.app, name="token")
app.add_typer(models.app, name="model")
app.add_typer(data.app, name="data")
app.add_typer(broker.app, name="broker")
app.add_typer(pki.app, name="pki")
app.add_typer(releases.app, name="release")
