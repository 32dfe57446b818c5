"""Where it is measured: this machine, a board behind ssh, an Android device behind adb."""
