module corp.lab/flannel-stand-in

go 1.24.0
